//! `nodectl completions SHELL`: made from the same tree as the help.

use super::args::{Arguments, CompletionsArguments};
use clap::CommandFactory;
use std::io::{self, Write};

pub fn run(args: CompletionsArguments) -> anyhow::Result<()> {
    // Into memory first: the generator panics where a reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "nodectl", &mut script);
    let mut stdout = io::stdout().lock();
    stdout.write_all(&script)?;
    Ok(stdout.flush()?)
}
