//! What is made of the command line's own description: completions for shells, and manual pages
//! for packages.

use std::{io, path::Path, process::ExitCode};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{UiError, args::Cli, output};

/// What the daemon is described as; the commands are for all users.
const DAEMON_SECTION: &str = "8";

/// Prints the completions for `shell`.
pub(super) fn completions(shell: Shell) -> Result<ExitCode, UiError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "scx_mosix", &mut text);
    output::print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a manual page for the daemon and one for each command into `directory`.
pub(super) fn manual(directory: &Path) -> Result<ExitCode, UiError> {
    let failed = |source| UiError::Manual { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut cli = Cli::command();
    cli.build();
    write(directory, "scx_mosix", DAEMON_SECTION, &cli).map_err(failed)?;
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        write(directory, &format!("scx_mosix-{}", command.get_name()), "1", command).map_err(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(directory: &Path, name: &str, section: &str, command: &Command) -> io::Result<()> {
    let mut text = Vec::new();
    Man::new(command.clone().display_name(name)).title(name).section(section).render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.{section}")), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(manual(directory.path()).unwrap(), ExitCode::SUCCESS);
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(read("scx_mosix.8").contains("\\-\\-join"), "{}", read("scx_mosix.8"));
        assert!(read("scx_mosix-migrate.1").contains("NODE"));
        assert!(!directory.path().join("scx_mosix-agent-home.1").exists());
    }
}
