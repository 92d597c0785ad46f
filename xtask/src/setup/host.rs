//! This computer, as far as set-up looks at it. Tests give it programs of their own.

use super::CLANGS;
use crate::product;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where programs are looked for, and what this user may do.
pub struct Host {
    /// The directories of programs.
    pub path: OsString,
    /// Whether we are root.
    pub root: bool,
    /// Whether there is a terminal on which sudo can ask for a password.
    pub terminal: bool,
    /// The clang that the user named.
    pub named_clang: Option<String>,
    /// Where the product is built.
    pub target: PathBuf,
}

impl Host {
    /// This computer.
    pub fn this() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Programs of administrators are needed too, and are not in every user's PATH.
        let all = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(Into::into));
        Self {
            path: std::env::join_paths(all).unwrap_or(path.clone()),
            // SAFETY: geteuid takes nothing, changes nothing and cannot fail.
            root: unsafe { libc::geteuid() } == 0,
            terminal: std::io::stdin().is_terminal(),
            named_clang: std::env::var("BPF_CLANG").ok(),
            target: product::target_dir(),
        }
    }

    /// Whether there is a program of that name.
    pub fn have(&self, program: &str) -> bool {
        self.find(program).is_some()
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|directory| directory.join(program)).find(|path| path.is_file())
    }

    /// `program` without input, in no language but English, as what it says is read.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.find(program).unwrap_or_else(|| program.into()));
        command.env("PATH", &self.path).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// The same as root.
    pub fn command_as_root(&self, program: &str) -> Command {
        let variables = ["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"];
        let mut command = self.command(if self.root { "env" } else { "sudo" });
        if !self.root {
            command.arg("env");
        }
        command.args(variables).arg(program);
        command
    }

    /// The clang that compiles the BPF programs: the one that the user named, else the best
    /// version.
    pub fn clang(&self) -> Option<String> {
        let named = self.named_clang.clone().filter(|name| self.have(name));
        named.or_else(|| CLANGS.iter().map(|version| format!("clang-{version}")).find(|name| self.have(name)))
    }
}
