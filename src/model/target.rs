//! The one grammar for what a person points at: `shop`, `shop/web`, `shop/web.3`. Pure; what
//! it points at in the cluster is for the API to find.

use super::ids::{AppName, ProcessName};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub app: AppName,
    pub process: Option<ProcessName>,
    /// From 1; present only with a process.
    pub slot: Option<u32>,
}

/// Why a text is no target; fit to show to its author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no target: {problem}")]
pub struct TargetError {
    pub text: String,
    pub problem: String,
}

impl Target {
    /// # Errors
    /// What is wrong, and how targets are written.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let fail = |problem: String| TargetError { text: text.chars().take(100).collect(), problem };
        const SHAPE: &str = "write an app, app/process or app/process.number, such as shop/web.3";
        if text.is_empty() {
            return Err(fail(format!("it is empty; {SHAPE}")));
        }
        let (app, rest) = match text.split_once('/') {
            Some((app, rest)) => (app, Some(rest)),
            None => (text, None),
        };
        if rest.is_none()
            && let Some((app, end)) = app.split_once('.')
        {
            // `shop.web` and `web.1` are what people try first.
            let hint = match end.parse::<u32>() {
                Ok(_) => format!("an instance is named with its app, APP/{app}.{end}"),
                Err(_) => format!("a process is named {app}/{end}"),
            };
            return Err(fail(hint));
        }
        let app = AppName::new(app).map_err(|error| fail(error.to_string()))?;
        let Some(rest) = rest else { return Ok(Target { app, process: None, slot: None }) };
        let (process, slot) = match rest.split_once('.') {
            Some((process, slot)) => (process, Some(slot)),
            None => (rest, None),
        };
        if process.contains('/') {
            return Err(fail(SHAPE.into()));
        }
        let process = ProcessName::new(process).map_err(|error| fail(error.to_string()))?;
        let slot = match slot {
            None => None,
            Some(slot) => {
                let plain = slot.bytes().all(|b| b.is_ascii_digit()) && !slot.starts_with('0');
                let number = slot.parse().ok().filter(|_| plain);
                Some(number.ok_or_else(|| fail(format!("{slot:?} is no instance's number, 1, 2, 3 …")))?)
            }
        };
        Ok(Target { app, process: Some(process), slot })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.app.fmt(f)?;
        if let Some(process) = &self.process {
            write!(f, "/{process}")?;
        }
        self.slot.map_or(Ok(()), |slot| write!(f, ".{slot}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_back_as_it_was_written() {
        for text in ["shop", "shop/web", "shop/web.3", "a-1/b-2.4294967295"] {
            assert_eq!(Target::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_target_says_how_one_is_written() {
        for (text, message) in [
            (
                "",
                "\"\" is no target: it is empty; write an app, app/process or app/process.number, such as shop/web.3",
            ),
            (
                "Shop",
                "\"Shop\" is no target: app name \"Shop\" has characters other than a-z, 0-9 and hyphen",
            ),
            ("web.1", "\"web.1\" is no target: an instance is named with its app, APP/web.1"),
            ("shop.web", "\"shop.web\" is no target: a process is named shop/web"),
            ("shop/", "\"shop/\" is no target: process name \"\" is empty"),
            ("/web", "\"/web\" is no target: app name \"\" is empty"),
            ("shop/web.", "\"shop/web.\" is no target: \"\" is no instance's number, 1, 2, 3 …"),
            ("shop/web.0", "\"shop/web.0\" is no target: \"0\" is no instance's number, 1, 2, 3 …"),
            ("shop/web.+1", "\"shop/web.+1\" is no target: \"+1\" is no instance's number, 1, 2, 3 …"),
            (
                "shop/web.4294967296",
                "\"shop/web.4294967296\" is no target: \"4294967296\" is no instance's number, 1, 2, 3 …",
            ),
            ("shop/web.1.2", "\"shop/web.1.2\" is no target: \"1.2\" is no instance's number, 1, 2, 3 …"),
            (
                "shop/web/1",
                "\"shop/web/1\" is no target: write an app, app/process or app/process.number, such as shop/web.3",
            ),
        ] {
            assert_eq!(Target::parse(text).expect_err(text).to_string(), message);
        }
    }
}
