//! `cargo xtask setup`: what must be installed on this computer, and why.
//!
//! ```text
//! room on the disks ─► missing packages ─► apt (never removes, never downgrades) ─► every program starts
//! ```
//!
//! The other commands call it themselves, before anything that takes long. When nothing is missing
//! it takes a fraction of a second. Each refusal is one sentence that says what to do.

mod apt;
mod host;
mod programs;
mod room;
#[cfg(test)]
mod tests;

use crate::progress::Progress;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::process::Stdio;

pub use host::Host;

/// Packages of Debian and Ubuntu (the names are the same), and what for.
const PACKAGES: &[(&[&str], &str)] = &[
    (&["gcc", "make", "libc6-dev", "binutils", "pkg-config"], "to link, and to build libbpf"),
    (&["libelf-dev", "zlib1g-dev", "libzstd-dev"], "libbpf's libraries, linked statically"),
    (&["openssh-client", "cpio"], "to run virtual machines"),
    (&["iproute2", "util-linux"], "to make nodes of namespaces, and their network"),
    (&["mmdebstrap", "debian-archive-keyring", "ca-certificates", "e2fsprogs"], "to make their Debian image"),
    (&["python3", "python3-venv", "kmod", "udev"], "virtme-ng, which runs this system under the guests' kernel"),
];

/// What only those need who are not root: without it mmdebstrap cannot make a user namespace.
const UNPRIVILEGED: (&[&str], &str) = (&["uidmap"], "to make the image without being root");

/// The versions of clang whose BPF code is good enough, best first.
const CLANGS: &[u32] = &[19, 20, 21, 18];

/// Packages and what they are for.
struct Group {
    packages: Vec<String>,
    why: &'static str,
}

/// Installs what is missing, and looks that everything that will be needed works.
pub fn ensure(progress: &Progress) -> Result<()> {
    ensure_on(&Host::this(), progress)
}

fn ensure_on(host: &Host, progress: &Progress) -> Result<()> {
    if !host.have("dpkg-query") || !host.have("apt-get") {
        // Another distribution: its packages have names that we do not know.
        return programs::check(host).context("this is not a Debian or Ubuntu, so install it yourself");
    }
    let missing = missing(host)?;
    room::check(host, !missing.is_empty())?;
    if !missing.is_empty() {
        apt::install(host, progress, missing)?;
    }
    programs::check(host)
}

/// The packages that are not installed.
fn missing(host: &Host) -> Result<Vec<Group>> {
    let unprivileged = (!host.root).then_some(&UNPRIVILEGED);
    let mut groups: Vec<Group> = PACKAGES
        .iter()
        .chain(unprivileged)
        .map(|&(packages, why)| Group { packages: packages.iter().map(|&name| name.to_owned()).collect(), why })
        .collect();
    if host.clang().is_none() {
        groups.push(Group { packages: clang_packages(CLANGS[0]), why: "clang, which compiles the BPF programs" });
    }
    let installed = installed(host, &names(&groups))?;
    for group in &mut groups {
        group.packages.retain(|package| !installed.contains(package));
    }
    groups.retain(|group| !group.packages.is_empty());
    Ok(groups)
}

fn names(groups: &[Group]) -> Vec<&str> {
    groups.iter().flat_map(|group| &group.packages).map(String::as_str).collect()
}

fn clang_packages(version: u32) -> Vec<String> {
    vec![format!("clang-{version}"), format!("libclang1-{version}")]
}

/// Which of `packages` are installed.
fn installed(host: &Host, packages: &[&str]) -> Result<BTreeSet<String>> {
    // It fails if one of them is unknown, and tells of the others all the same.
    let output = host
        .command("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect())
}
