//! Reads Rust as tokens, and finds the paths that a file names. Not a parser: just enough to
//! see every path from the crate's root, and to leave out what only tests compile.

#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

/// Identifiers, `::` and single other characters.
pub fn tokens(source: &str) -> Vec<Token> {
    let bytes = source.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut tokens = Vec::new();
    while at < bytes.len() {
        let rest = &source[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest) {
            length
        } else if rest.starts_with("::") {
            tokens.push(Token { line, text: "::".into() });
            2
        } else {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let word: String = rest.chars().take_while(|c| is_word(*c)).collect();
            let first = rest.chars().next().expect("not at the end");
            let text = if word.is_empty() { first.to_string() } else { word };
            let length = text.len();
            if !first.is_whitespace() {
                tokens.push(Token { line, text });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string or character literal that starts here.
fn string(text: &str) -> Option<usize> {
    let prefix = text.find(|c| c != 'b' && c != 'c' && c != 'r').unwrap_or(0);
    let (prefixes, rest) = text.split_at(prefix);
    if prefix <= 2 && prefixes.ends_with('r') {
        let hashes = rest.find(|c| c != '#').unwrap_or(0);
        if rest[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let start = prefix + hashes + 1;
            return Some(text[start..].find(&close).map_or(text.len(), |end| start + end + close.len()));
        }
    }
    if prefix <= 1 && rest.starts_with('"') {
        let mut escaped = false;
        let end = rest[1..].find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        return Some(end.map_or(text.len(), |end| prefix + end + 2));
    }
    // 'x' and '\n', but not the lifetime 'x.
    let mut chars = rest.char_indices().skip(1);
    if prefix <= 1 && rest.starts_with('\'') {
        let (_, first) = chars.next()?;
        if first == '\\' {
            chars.next();
            return chars.find(|(_, c)| *c == '\'').map(|(end, _)| prefix + end + 1);
        }
        return chars.next().filter(|(_, c)| *c == '\'').map(|(end, _)| prefix + end + 1);
    }
    None
}

/// A file's paths and words, without what is compiled for tests alone.
#[derive(Default)]
pub struct Names {
    /// From the crate's root, with the line.
    pub paths: Vec<(usize, Vec<String>)>,
    pub tokens: Vec<Token>,
    /// Files that `#[cfg(test)] mod name;` declares.
    pub test_modules: Vec<String>,
}

/// `module` is the path of the file's module: `["scheduler", "plan"]`.
pub fn names(source: &str, module: &[String]) -> Names {
    let all = tokens(source);
    let mut found = Names::default();
    // Inline modules that are open, each with the depth of braces at which it closes.
    let mut inline: Vec<(usize, String)> = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    while at < all.len() {
        let text = |ahead: usize| all.get(at + ahead).map_or("", |token| token.text.as_str());
        if is_test_attribute(&all[at..]) {
            let (length, declared) = test_item(&all[at..]);
            found.test_modules.extend(declared);
            at += length;
            continue;
        }
        match text(0) {
            "mod" if text(2) == "{" => inline.push((depth, text(1).to_owned())),
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(opened, _)| *opened < depth);
            }
            _ => {}
        }
        let starts_path = at == 0 || all[at - 1].text != "::";
        let here: Vec<String> =
            module.iter().cloned().chain(inline.iter().map(|(_, name)| name.clone())).collect();
        if starts_path && let Some((skip, base)) = root_of(&all[at..], &here) {
            let mut tree = Vec::new();
            use_tree(&all[at + skip..], &base, &mut tree);
            found.paths.extend(tree.into_iter().map(|path| (all[at].line, path)));
        }
        found.tokens.push(all[at].clone());
        at += 1;
    }
    found
}

/// Where a path that starts here is rooted: after `crate::`, `super::`, `self::`.
fn root_of(tokens: &[Token], here: &[String]) -> Option<(usize, Vec<String>)> {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|t| t.text == text);
    if is(0, "crate") && is(1, "::") {
        return Some((2, Vec::new()));
    }
    let mut base = here.to_vec();
    let mut at = 0;
    if is(0, "self") && is(1, "::") {
        at = 2;
    }
    while is(at, "super") && is(at + 1, "::") {
        base.pop();
        at += 2;
    }
    (at > 0).then_some((at, base))
}

/// All paths of `a::b`, `a::{b, c::{d}}`, `{a, b}`; gives how many tokens they took.
fn use_tree(tokens: &[Token], base: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = base.to_vec();
    let mut at = 0;
    loop {
        match tokens.get(at).map(|t| t.text.as_str()) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t.text != "}") {
                    let taken = use_tree(&tokens[at..], &path, found);
                    // What is no tree (`as name`, a comma) is stepped over.
                    at += taken.max(1);
                }
                return at + 1;
            }
            Some(text) if text == "*" || text.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(text.to_owned());
                at += 1;
            }
            _ => {
                return at;
            }
        }
        if tokens.get(at).is_some_and(|t| t.text == "::") {
            at += 1;
        } else {
            found.push(path);
            let renamed = tokens.get(at).is_some_and(|t| t.text == "as");
            return if renamed { at + 2 } else { at };
        }
    }
}

fn is_test_attribute(tokens: &[Token]) -> bool {
    let texts: Vec<&str> = tokens.iter().take(7).map(|t| t.text.as_str()).collect();
    texts == ["#", "[", "cfg", "(", "test", ")", "]"]
}

/// The length of an item below `#[cfg(test)]`, and the module it declares in another file.
fn test_item(tokens: &[Token]) -> (usize, Option<String>) {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(7) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return (at + 1, None),
            "}" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => {
                let is_module = tokens[at - 2].text == "mod";
                return (at + 1, is_module.then(|| tokens[at - 1].text.clone()));
            }
            _ => {}
        }
    }
    (tokens.len(), None)
}
