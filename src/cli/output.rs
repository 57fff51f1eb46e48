//! How things look: tables with aligned columns for people, JSON for programs, colours only
//! where a person looks, and the notes beside the answer, on standard error.

use super::args::OutputArguments;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Human,
    Json,
}

/// The colours that carry a meaning here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
    Bold,
}

/// Writes escapes or leaves them out.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    on: bool,
}

impl Paint {
    fn for_stream(is_terminal: bool) -> Self {
        // https://no-color.org: set and not empty.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { on: is_terminal && !refused && !dumb }
    }

    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Bold => "1",
        };
        self.escape(code, text)
    }

    /// One of six colours, the same for the same number.
    pub fn rotate(self, number: usize, text: &str) -> String {
        self.escape(["36", "33", "32", "35", "34", "31"][number % 6], text)
    }

    fn escape(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Standard output for the answer, standard error for what is said beside it.
pub struct Out {
    format: Format,
    pub paint: Paint,
    pub is_terminal: bool,
    width: Option<usize>,
    /// Go on when the reader has gone away: the exit status is still wanted.
    survives_reader: bool,
}

impl Out {
    pub fn new(args: OutputArguments) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let width = if is_terminal { terminal_width() } else { None };
        Self {
            format: args.format,
            paint: Paint::for_stream(is_terminal),
            is_terminal,
            width,
            survives_reader: false,
        }
    }

    /// A reader that goes away is no reason to stop.
    pub fn surviving_reader(mut self) -> Self {
        self.survives_reader = true;
        self
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One whole document.
    pub fn json(&self, view: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(view)?;
        text.push(b'\n');
        self.write(&text)
    }

    /// One line of a stream.
    pub fn json_line(&self, view: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(view)?;
        text.push(b'\n');
        self.write(&text)
    }

    pub fn line(&self, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.write(format!("{}\n", text.as_ref()).as_bytes())
    }

    pub fn table(&self, table: &Table) -> anyhow::Result<()> {
        self.write(table.render(self.paint, self.width).as_bytes())
    }

    pub fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.survives_reader => Ok(()),
            other => Ok(other?),
        }
    }

    /// Sentences, folded at words where a terminal would break them anywhere.
    pub fn prose(&self, text: impl AsRef<str>, indent: usize) -> anyhow::Result<()> {
        self.line(fold(text.as_ref(), self.width, indent))
    }

    /// Something to know beside the answer, such as a default that acted.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.is_json() {
            say(Tone::Dim, text.as_ref());
        }
    }

    /// The command that is likely wanted next.
    pub fn next(&self, command: impl AsRef<str>) {
        self.note(format!("next: {}", command.as_ref()));
    }
}

/// A line on standard error, whatever the format.
pub fn say(tone: Tone, text: &str) {
    let mut stderr = io::stderr().lock();
    let paint = Paint::for_stream(stderr.is_terminal());
    _ = writeln!(stderr, "{}", paint.paint(tone, text));
}

/// Whether progress may be drawn: on standard error, for a person.
pub fn shows_progress(out: &Out) -> bool {
    !out.is_json() && io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Text from elsewhere without what would steer the terminal, in one line.
pub fn plain(text: &str) -> String {
    let keep = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
    text.trim_end()
        .split('\n')
        .map(|line| line.chars().map(keep).collect())
        .collect::<Vec<String>>()
        .join(" | ")
}

#[derive(Default, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: plain(&text.into()), tone: Tone::Plain }
    }
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: plain(&text.into()), tone }
    }
}

/// Columns aligned by spaces. The last one wraps at the terminal's width; columns in which no
/// row has anything are left out.
pub struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

const GAP: usize = 2;

impl Table {
    pub fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.headers.len(), "a cell for each header");
        self.rows.push(cells);
    }

    pub fn render(&self, paint: Paint, width: Option<usize>) -> String {
        let used: Vec<usize> = (0..self.headers.len())
            .filter(|&column| self.rows.iter().any(|row| !row[column].text.is_empty()))
            .collect();
        let Some((&last, before)) = used.split_last() else { return String::new() };
        let widths: Vec<usize> = before.iter().map(|&column| self.width_of(column)).collect();
        let indent = widths.iter().map(|width| width + GAP).sum();
        let mut text = String::new();
        let header: Vec<Cell> = self.headers.iter().map(|name| Cell::toned(*name, Tone::Dim)).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            for (&column, &width) in before.iter().zip(&widths) {
                let cell = &row[column];
                let padding = width + GAP - cell.text.chars().count();
                text.push_str(&paint.paint(cell.tone, &cell.text));
                text.push_str(&" ".repeat(padding));
            }
            let lines = wrap(&row[last].text, width.map(|width| width.saturating_sub(indent)));
            for (number, line) in lines.iter().enumerate() {
                if number > 0 {
                    text.push_str(&" ".repeat(indent));
                }
                text.push_str(&paint.paint(row[last].tone, line));
                // No spaces at a line's end: a copied table stays clean.
                text.truncate(text.trim_end_matches(' ').len());
                text.push('\n');
            }
        }
        text
    }

    fn width_of(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].text.chars().count());
        cells.max().unwrap_or(0).max(self.headers[column].len())
    }
}

/// Lines of at most `width`, broken at spaces; a longer word stays whole.
fn wrap(text: &str, width: Option<usize>) -> Vec<String> {
    // Narrower than this, broken lines read worse than what the terminal does by itself.
    const NARROWEST: usize = 16;
    let Some(width) = width.filter(|&width| width >= NARROWEST) else { return vec![text.to_owned()] };
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Each line folded at `width`; what follows of it is indented.
pub fn fold(text: &str, width: Option<usize>, indent: usize) -> String {
    let fold_line = |line: &str| {
        let mut rest = line.to_owned();
        let mut folded = String::new();
        // The first line is as wide as the terminal, the others less by their indent.
        if let [first, more @ ..] = wrap(&rest, width).as_slice()
            && !more.is_empty()
        {
            folded = format!("{}\n", first.trim_end());
            rest = more.join(" ");
            let lines = wrap(rest.trim_start(), width.map(|width| width.saturating_sub(indent)));
            rest = lines
                .iter()
                .map(|line| format!("{}{line}", " ".repeat(indent)))
                .collect::<Vec<_>>()
                .join("\n");
        }
        folded + &rest
    };
    text.lines().map(fold_line).collect::<Vec<_>>().join("\n")
}

/// The width of what errors are read on; `None` if that is no terminal.
pub fn stderr_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_folded_at_words_and_only_on_a_terminal() {
        let text = "one  two three four five six\nseven";
        assert_eq!(fold(text, None, 2), text);
        assert_eq!(fold(text, Some(19), 2), "one  two three four\n  five six\nseven");
        let long = "x".repeat(40);
        assert_eq!(fold(&format!("a {long} b"), Some(20), 2), format!("a\n  {long}\n  b"));
    }

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "NOTHING", "NOTE"]);
        table.row(vec!["a".into(), "".into(), "one two three four five".into()]);
        table.row(vec!["longer-name".into(), "".into(), "".into()]);
        table
    }

    #[test]
    fn empty_columns_are_left_out_and_lines_end_without_spaces() {
        let text = table().render(Paint { on: false }, None);
        assert_eq!(text, "NAME         NOTE\na            one two three four five\nlonger-name\n");
    }

    #[test]
    fn the_last_column_wraps_at_the_width_of_the_terminal() {
        let text = table().render(Paint { on: false }, Some(13 + 16));
        assert!(text.lines().all(|line| line.len() <= 29), "{text}");
        assert!(text.contains("\n             four five\n"), "{text}");
    }

    #[test]
    fn what_would_steer_the_terminal_is_made_visible() {
        assert_eq!(plain("a\x1b[2Jb\tc"), "a\u{fffd}[2Jb\tc");
    }
}
