//! `cargo xtask setup`: what must be installed on this computer, and why.
//!
//! The other commands call it themselves. When nothing is missing it asks dpkg once and is done.

use crate::cmd;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

/// Packages of Debian and Ubuntu (the names are the same), and what for.
const PACKAGES: &[(&[&str], &str)] = &[
    (&["gcc", "make", "libc6-dev", "binutils", "pkg-config"], "to link, and to build libbpf"),
    (&["libelf-dev", "zlib1g-dev", "libzstd-dev"], "libbpf's libraries, linked statically"),
    (&["qemu-system-x86", "qemu-utils", "openssh-client", "cpio"], "to run virtual machines"),
    (&["mmdebstrap", "debian-archive-keyring", "ca-certificates", "e2fsprogs"], "to make their Debian image"),
    (&["python3", "python3-venv", "kmod", "udev"], "virtme-ng, which runs this system under the guests' kernel"),
];

/// What only those need who are not root: without it mmdebstrap cannot make a user namespace.
const UNPRIVILEGED: (&[&str], &str) = (&["uidmap"], "to make the image without being root");

/// The versions of clang whose BPF code is good enough, best first.
pub const CLANGS: &[u32] = &[19, 20, 21, 18];

/// Installs what is missing; quick when nothing is.
pub fn ensure(progress: &Progress) -> Result<()> {
    if !cmd::have("dpkg-query") {
        return ensure_without_apt();
    }
    // SAFETY: geteuid takes nothing, changes nothing and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let mut groups: Vec<(Vec<String>, &str)> = Vec::new();
    let unprivileged = (!root).then_some(&UNPRIVILEGED);
    for (packages, why) in PACKAGES.iter().chain(unprivileged) {
        groups.push((packages.iter().map(|&name| name.to_owned()).collect(), why));
    }
    if crate::product::clang().is_none() {
        groups.push((clang_packages(CLANGS[0]), "clang, which compiles the BPF programs"));
    }
    let wanted: Vec<&str> = groups.iter().flat_map(|(packages, _)| packages).map(String::as_str).collect();
    let installed = installed(&wanted)?;
    for (packages, _) in &mut groups {
        packages.retain(|package| !installed.contains(package));
    }
    groups.retain(|(packages, _)| !packages.is_empty());
    if groups.is_empty() {
        return Ok(());
    }
    install(progress, root, groups)
}

fn clang_packages(version: u32) -> Vec<String> {
    vec![format!("clang-{version}"), format!("libclang1-{version}")]
}

/// Which of `packages` are installed.
fn installed(packages: &[&str]) -> Result<BTreeSet<String>> {
    // It fails if one of them is unknown, and tells of the others all the same.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect())
}

fn install(progress: &Progress, root: bool, mut groups: Vec<(Vec<String>, &str)>) -> Result<()> {
    if !root && !cmd::have("sudo") {
        let names: Vec<&str> = groups.iter().flat_map(|(packages, _)| packages).map(String::as_str).collect();
        bail!(
            "these packages are missing, and there is no sudo to install them: as root, apt-get install {}",
            names.join(" ")
        );
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "env" } else { "sudo" });
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]).args(arguments);
        command
    };
    let step = progress.step("asking the mirror what it has (apt-get update)");
    // A dead third-party source makes it fail; what matters is whether the install below works.
    if let Err(error) = cmd::output(&mut apt(&["update"])) {
        progress.say(format!("{error:#}"));
    }
    step.done();
    for (packages, _) in &mut groups {
        if packages.iter().any(|package| package.starts_with("clang-")) {
            let version = CLANGS.iter().copied().find(|version| available(&format!("clang-{version}")));
            *packages = clang_packages(version.unwrap_or(CLANGS[0]));
        }
    }
    for (packages, why) in &groups {
        progress.say(format!("installing {}: {why}", packages.join(", ")));
    }
    let names: Vec<&str> = groups.iter().flat_map(|(packages, _)| packages).map(String::as_str).collect();
    let step = progress.step("installing packages (apt-get install)");
    cmd::output(apt(&["install", "--no-install-recommends"]).args(names)).context("cannot install what is missing")?;
    step.done();
    Ok(())
}

fn available(package: &str) -> bool {
    let policy = cmd::output(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    policy.lines().any(|line| line.trim_start().starts_with("Candidate:") && !line.contains("(none)"))
}

/// On other distributions we cannot install, only say what is missing.
fn ensure_without_apt() -> Result<()> {
    let programs = ["gcc", "qemu-system-x86_64", "qemu-img", "mmdebstrap", "mkfs.ext4", "cpio", "ssh", "python3"];
    let missing: Vec<&str> = programs.into_iter().filter(|program| !cmd::have(program)).collect();
    if !missing.is_empty() {
        bail!("this is not a Debian or Ubuntu, so install these yourself: {}", missing.join(", "));
    }
    if crate::product::clang().is_none() {
        bail!("clang 18 or newer is missing: install it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_tells_what_is_there_even_beside_what_is_not() {
        if !cmd::have("dpkg-query") {
            return;
        }
        let there = installed(&["dpkg", "no-such-package-at-all"]).unwrap();
        assert_eq!(there.into_iter().collect::<Vec<_>>(), ["dpkg"]);
    }

    #[test]
    fn every_package_is_named_once() {
        let all: Vec<_> = PACKAGES.iter().flat_map(|(packages, _)| *packages).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
