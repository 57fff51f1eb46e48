//! Names of signals to their numbers, as Linux has them on x86-64 and arm64.

/// Every signal that may ask a program to stop.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
];

/// glibc's SIGRTMIN and SIGRTMAX: the two below 34 belong to the thread library.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// `TERM` or `SIGTERM`, `RTMIN+3`.
///
/// # Errors
/// The end of a sentence that starts with the key's name.
pub(super) fn number(name: &str) -> Result<i32, String> {
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == bare) {
        return Ok(*number);
    }
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        let offset =
            if rest.is_empty() { Some(0) } else { rest.strip_prefix('+').and_then(|n| n.parse().ok()) };
        if let Some(offset) = offset.filter(|n: &u8| i32::from(*n) <= RTMAX - RTMIN) {
            return Ok(RTMIN + i32::from(offset));
        }
    }
    if matches!(bare, "STOP" | "TSTP" | "TTIN" | "TTOU") {
        return Err(format!("freezes the program instead of ending it: {name:?}"));
    }
    let upper = bare.to_uppercase();
    let upper = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = SIGNALS.iter().map(|(known, _)| *known).find(|known| *known == upper);
    Err(match known {
        Some(known) => format!("must be written in capitals, {known:?}; it is {name:?}"),
        None => {
            format!("must be a signal that can stop a program, such as \"TERM\" or \"QUIT\"; it is {name:?}")
        }
    })
}
