//! The `scx_mosix` command.

use std::process::ExitCode;

use scx_mosix::ui::{self, args::Command};

fn main() -> ExitCode {
    let cli = ui::args::parse();
    let command = cli.command.unwrap_or(Command::Daemon(cli.daemon));
    if let Some(code) = ui::client_command(&command) {
        return code;
    }
    match command {
        Command::Run(args) => ui::run(args),
        _ => ExitCode::FAILURE,
    }
}
