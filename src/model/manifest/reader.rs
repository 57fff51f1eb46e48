//! Reading a TOML table key by key, keeping every fault with its line. Knows nothing of what
//! the keys mean.
//!
//! Faults are gathered, never returned early: an author sees all of them at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One fault: `nodectl.toml:7: unknown key "cout" in [process.web]: did you mean "count"?`
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ManifestError {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// Dotted, `process.web.count`; empty when the fault is the file's.
    pub key: String,
    pub message: String,
}

/// The text being read, and what was wrong with it so far.
pub(super) struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    /// Where each line starts.
    lines: Vec<usize>,
    errors: RefCell<Vec<ManifestError>>,
    /// Faults beyond those that are told.
    untold: Cell<usize>,
}

/// More than anyone reads; a file of noise must not cost its square in comparisons.
const TOLD_MAX: usize = 100;

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, text: &'a str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self { file, text, lines, errors: RefCell::default(), untold: Cell::default() }
    }

    /// From 1.
    pub fn line_at(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    pub fn error(&self, line: usize, key: &str, message: impl FnOnce() -> String) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() >= TOLD_MAX {
            self.untold.set(self.untold.get() + 1);
            return;
        }
        let error =
            ManifestError { file: self.file.to_owned(), line, key: key.to_owned(), message: message() };
        if !errors.contains(&error) {
            errors.push(error);
        }
    }

    pub fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// In the order of the file.
    pub fn into_errors(self) -> Vec<ManifestError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.line);
        if self.untold.get() > 0 {
            let line = errors.last().map_or(1, |error| error.line);
            let message = format!("and {} more faults, once these are mended", self.untold.get());
            errors.push(ManifestError { file: self.file.to_owned(), line, key: String::new(), message });
        }
        errors
    }
}

/// The keys that a table may have.
pub(super) struct Keys {
    pub known: &'static [&'static str],
    /// Keys that a later version will understand: refused by name, never ignored.
    pub later: &'static [&'static str],
    /// Keys that belong in another table, with that table's name.
    pub elsewhere: &'static [(&'static [&'static str], &'static str)],
}

/// What users of other platforms write for the same thing.
const ELSEWHERE_CALLED: &[(&str, &str)] = &[
    ("replicas", "count"),
    ("instances", "count"),
    ("scale", "count"),
    ("cmd", "command"),
    ("mem", "memory"),
    ("ports", "port"),
    ("expose", "port"),
    ("internal_port", "port"),
    ("environment", "env"),
    ("healthcheck", "health"),
    ("processes", "process"),
    ("routes", "route"),
    ("name", "app"),
    ("domain", "host"),
    ("kill_signal", "signal"),
    ("kill_timeout", "grace"),
];

/// A table, and where it stands: `in [process.web]`.
pub(super) struct Section<'a> {
    pub reader: &'a Reader<'a>,
    table: &'a DeTable<'a>,
    /// `in [process.web]`, `at the top level`.
    place: String,
    /// `process.web`; empty at the top.
    path: String,
    pub line: usize,
}

impl<'a> Section<'a> {
    pub fn top(reader: &'a Reader<'a>, table: &'a DeTable<'a>) -> Self {
        Section { reader, table, place: "at the top level".into(), path: String::new(), line: 1 }
    }

    /// Every key that is not known, with what may have been meant.
    pub fn check_keys(&self, keys: &Keys) {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if keys.known.contains(&name) {
                continue;
            }
            let message = || {
                if keys.later.contains(&name) {
                    format!("{name:?} {} is not supported yet: remove it", self.place)
                } else {
                    format!("unknown key {name:?} {}: {}", self.place, hint(name, keys))
                }
            };
            self.reader.error(self.reader.line_at(key.span().start), &self.path_of(name), message);
        }
    }

    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        let (name, value) = self.table.get_key_value(key)?;
        Some(self.field(name, value))
    }

    /// In the order of their lines.
    pub fn fields(&self) -> Vec<Field<'a>> {
        let mut fields: Vec<_> = self.table.iter().map(|(name, value)| self.field(name, value)).collect();
        fields.sort_by_key(|field| field.line);
        fields
    }

    /// `in [process.web]`.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub fn fail(&self, message: String) {
        self.reader.error(self.line, &self.path, || message);
    }

    fn field(&self, name: &'a Spanned<toml::de::DeString<'a>>, value: &'a Spanned<DeValue<'a>>) -> Field<'a> {
        let key = name.get_ref().as_ref();
        Field {
            reader: self.reader,
            key,
            place: self.place.clone(),
            path: self.path_of(key),
            line: self.reader.line_at(name.span().start),
            value,
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn hint(name: &str, keys: &Keys) -> String {
    if let Some((_, table)) = keys.elsewhere.iter().find(|(names, _)| names.contains(&name)) {
        return format!("it belongs in {table}");
    }
    let candidates = || keys.known.iter().chain(keys.later).copied();
    let called = ELSEWHERE_CALLED.iter().find(|(other, _)| *other == name).map(|(_, ours)| *ours);
    let called = called.filter(|ours| keys.known.contains(ours));
    match called.or_else(|| crate::model::near::nearest(name, candidates())) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("known keys are {}", keys.known.join(", ")),
    }
}

/// One key and its value.
pub(super) struct Field<'a> {
    reader: &'a Reader<'a>,
    pub key: &'a str,
    place: String,
    path: String,
    pub line: usize,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Field<'a> {
    /// `"count" in [process.web] {message}`.
    pub fn fail(&self, message: impl std::fmt::Display) {
        let told = || format!("{:?} {} {message}", self.key, self.place);
        self.reader.error(self.line, &self.path, told);
    }

    fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        self.fail(format_args!("must be {expected}; it is {}", type_name(self.value.get_ref())));
        None
    }

    pub fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// `example` is written as it would stand in the file: `"shop"`.
    pub fn string(&self, what: &str, example: &str) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type(&format!("{what} in quotes, such as {example}")),
        }
    }

    pub fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type("true or false"),
        }
    }

    pub fn integer(&self, range: RangeInclusive<u64>, example: u64) -> Option<u64> {
        let DeValue::Integer(number) = self.value.get_ref() else {
            return self.wrong_type(&format!("a whole number without quotes, such as {example}"));
        };
        // Wide enough that no 64-bit number in a file can wrap into the range.
        match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(n) if n >= i128::from(*range.start()) && n <= i128::from(*range.end()) => {
                u64::try_from(n).ok()
            }
            _ => {
                self.fail(format_args!("must be from {} to {}; it is {number}", range.start(), range.end()));
                None
            }
        }
    }

    /// A quantity in quotes.
    pub fn quantity<T>(&self, what: &str, example: &str, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string(what, example)?;
        parse(text).map_err(|message| self.fail(message)).ok()
    }

    /// As it stands in the file, for values that may be written with or without quotes.
    pub fn number_text(&self) -> Option<String> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            _ => None,
        }
    }

    pub fn is_integer(&self) -> bool {
        self.value.get_ref().is_integer()
    }

    /// A program and its arguments.
    pub fn command(&self) -> Option<Vec<String>> {
        let DeValue::Array(items) = self.value.get_ref() else {
            return match self.value.get_ref() {
                DeValue::String(text) => self.wrong_type(&format!(
                    "a list of strings, such as [\"/app/server\", \"--verbose\"] or, for a shell, [\"sh\", \"-c\", {:?}]",
                    text.as_ref()
                )),
                _ => self.wrong_type("a list of strings, such as [\"/app/server\", \"--verbose\"]"),
            };
        };
        let mut words = Vec::new();
        for item in items {
            let DeValue::String(word) = item.get_ref() else {
                self.fail(format_args!(
                    "must be a list of strings: item {} is {}",
                    words.len() + 1,
                    type_name(item.get_ref())
                ));
                return None;
            };
            words.push(word.to_string());
        }
        let total: usize = words.iter().map(String::len).sum();
        if words.first().is_none_or(String::is_empty) {
            self.fail("must name a program, such as [\"/app/server\"]; it is empty");
        } else if words.iter().any(|word| word.contains('\0')) {
            self.fail("has a NUL character, which no program can be given");
        } else if total > COMMAND_BYTES_MAX {
            self.fail(format_args!("is longer than {COMMAND_BYTES_MAX} bytes"));
        } else {
            return Some(words);
        }
        None
    }

    /// A table, `[like.this]` or `{ inline }`. `place` is how faults name it.
    pub fn section(&self, place: String, example: &str) -> Option<Section<'a>> {
        match self.value.get_ref() {
            DeValue::Table(table) => {
                Some(Section { reader: self.reader, table, place, path: self.path.clone(), line: self.line })
            }
            _ => self.wrong_type(&format!("a table, such as {example}")),
        }
    }

    /// A list of tables, `[[route]]`.
    pub fn sections(&self, place: &str, example: &str) -> Option<Vec<Section<'a>>> {
        let expected = format!("a list of tables, each written {example}");
        let DeValue::Array(items) = self.value.get_ref() else { return self.wrong_type(&expected) };
        let mut sections = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let DeValue::Table(table) = item.get_ref() else { return self.wrong_type(&expected) };
            sections.push(Section {
                reader: self.reader,
                table,
                place: place.to_owned(),
                path: format!("{}.{at}", self.path),
                line: self.reader.line_at(item.span().start),
            });
        }
        Some(sections)
    }

    /// The environment: names to strings.
    pub fn env(&self, place: String) -> Option<BTreeMap<String, String>> {
        let section = self.section(place, "{ LOG_LEVEL = \"info\" }")?;
        let mut env = BTreeMap::new();
        for field in section.fields() {
            if let Some(value) = field.env_value() {
                env.insert(field.key.to_owned(), value);
            }
        }
        Some(env)
    }

    fn env_value(&self) -> Option<String> {
        if self.key.is_empty() || self.key.len() > ENV_KEY_BYTES_MAX {
            self.fail(format_args!("must have a name of 1 to {ENV_KEY_BYTES_MAX} characters"));
            return None;
        }
        if self.key.chars().any(|c| c == '=' || c.is_control() || c.is_whitespace()) {
            self.fail("cannot be a variable's name: it has '=', white space or a control character");
            return None;
        }
        let text = match self.value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Table(table) if table.contains_key("secret") => {
                self.fail("takes a secret, which is not supported yet: remove it");
                return None;
            }
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
                let written = self.reader.text.get(self.value.span()).unwrap_or_default();
                return self.wrong_type(&format!("a string: write {} = \"{written}\"", self.key));
            }
            DeValue::Array(_) | DeValue::Table(_) => return self.wrong_type("a string, such as \"info\""),
        };
        if text.contains('\0') {
            self.fail("has a NUL character, which no variable can hold");
            return None;
        }
        // The kernel's MAX_ARG_STRLEN, for `KEY=value` and its end.
        if self.key.len() + text.len() + 2 > 131_072 {
            self.fail("is longer than 128 KiB, the most that the kernel hands to a program");
            return None;
        }
        Some(text)
    }
}

/// A quarter of what the kernel gives to arguments and environment together by default.
const COMMAND_BYTES_MAX: usize = 512 * 1024;
/// Nobody's variable is longer; a paste accident is.
const ENV_KEY_BYTES_MAX: usize = 256;

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
