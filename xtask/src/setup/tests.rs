//! Set-up on a computer whose apt, dpkg and other programs are scripts.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// A computer in a directory. Each program notes how it is called in `calls`.
struct Fake {
    dir: tempfile::TempDir,
    host: Host,
}

impl Fake {
    /// Root's computer, on which everything works and is installed.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let host = Host {
            path: bin.clone().into(),
            root: true,
            terminal: false,
            named_clang: None,
            target: dir.path().join("target"),
        };
        for program in ["sh", "env"] {
            symlink(Path::new("/usr/bin").join(program), bin.join(program)).unwrap();
        }
        let fake = Self { dir, host };
        let working = [
            "gcc",
            "make",
            "ld",
            "strip",
            "pkg-config",
            "ssh",
            "cpio",
            "mmdebstrap",
            "mkfs.ext4",
            "python3",
            "clang-19",
        ];
        for program in working {
            fake.program(program, "exit 0");
        }
        fake.program(
            "dpkg-query",
            r#"for word; do case $word in -*|*' '*) ;; *) echo "$word installed" ;; esac; done"#,
        );
        fake.program("apt-cache", "echo '  Candidate: 1.0'");
        fake.program("apt-get", "exit 0");
        fake.program("newuidmap", "exit 0");
        fake.disks(1 << 30);
        fake
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.dir.path().join("bin").join(name);
        let calls = self.dir.path().join("calls");
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >>{}\n{script}\n", calls.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Leaves `kib` free on the one disk.
    fn disks(&self, kib: u64) {
        self.program("df", &format!("echo Head; shift; for place; do echo \"/dev/a 9 9 {kib} 9% /\"; done"));
    }

    /// Has dpkg say that `package` is not installed.
    fn lacks(&self, package: &str) {
        let script =
            format!(r#"for word; do case $word in -*|*' '*|{package}) ;; *) echo "$word installed" ;; esac; done"#);
        self.program("dpkg-query", &script);
    }

    fn set_up(&self) -> Result<(), String> {
        ensure_on(&self.host, &Progress::of_a_test()).map_err(|error| format!("{error:#}"))
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }

    /// The calls by which apt would have changed something.
    fn installs(&self) -> Vec<String> {
        let calls = self.calls();
        let real = calls.lines().filter(|line| line.starts_with("apt-get") && line.contains(" install "));
        real.filter(|line| !line.contains("--simulate")).map(str::to_owned).collect()
    }
}

#[test]
fn where_nothing_is_missing_apt_is_not_asked() {
    let fake = Fake::new();
    fake.set_up().unwrap();
    assert!(!fake.calls().contains("apt-get"), "{}", fake.calls());
}

#[test]
fn what_is_missing_is_installed_with_no_remove() {
    let fake = Fake::new();
    fake.lacks("cpio");
    fake.set_up().unwrap();
    let installs = fake.installs();
    assert_eq!(installs.len(), 1, "{installs:?}");
    assert!(installs[0].contains("--no-remove cpio"), "{installs:?}");
    assert!(!fake.calls().contains("--allow-downgrades"));
}

#[test]
fn a_package_is_never_removed() {
    let fake = Fake::new();
    fake.lacks("cpio");
    fake.program("apt-get", "case $* in *--simulate*) echo 'Remv qemu-utils [1:10.0]'; esac");
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("would have to remove qemu-utils to install cpio"), "{error}");
    assert_eq!(error.lines().count(), 1);
    assert!(fake.installs().is_empty());
}

#[test]
fn a_package_is_never_downgraded() {
    let fake = Fake::new();
    fake.lacks("libelf-dev");
    let script = "case $* in *--simulate*) printf 'The following packages will be DOWNGRADED:\\n  libelf1\\n0 upgraded\\n'; exit 100; esac";
    fake.program("apt-get", script);
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("would have to downgrade libelf1 to install libelf-dev"), "{error}");
    assert!(fake.installs().is_empty());
}

#[test]
fn versions_from_backports_are_taken_where_only_they_fit() {
    let fake = Fake::new();
    fake.lacks("libelf-dev");
    fake.program(
        "apt-cache",
        "echo '     release v=,o=Debian Backports,a=stable-backports,n=bookworm-backports,c=main'",
    );
    fake.program("apt-get", "case $* in *-backports*) ;; *--simulate*) echo 'Remv libelf1 [0.192]'; esac");
    fake.set_up().unwrap();
    let installs = fake.installs();
    assert!(installs[0].contains("-t stable-backports install"), "{installs:?}");
}

#[test]
fn without_a_network_the_mirrors_are_named_as_the_cause() {
    let fake = Fake::new();
    fake.lacks("cpio");
    let script = "case $* in *update*) echo \"W: Failed to fetch http://m/InRelease  Could not resolve 'm'\" >&2; exit 100;;\n\
        *--simulate*) echo 'E: Unable to locate package cpio' >&2; exit 100; esac";
    fake.program("apt-get", script);
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("mirrors cannot be reached"), "{error}");
    assert!(error.contains("connect this computer to the network"), "{error}");
    assert!(fake.installs().is_empty());
}

#[test]
fn a_network_lost_during_the_download_is_named() {
    let fake = Fake::new();
    fake.lacks("cpio");
    fake.program("apt-get", "case $* in *-y*) echo 'E: Failed to fetch http://m/cpio.deb' >&2; exit 100; esac");
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("mirrors cannot be reached"), "{error}");
}

#[test]
fn a_dead_third_party_source_stops_nothing() {
    let fake = Fake::new();
    fake.lacks("cpio");
    fake.program("apt-get", "case $* in *update*) echo 'E: Failed to fetch http://dead/' >&2; exit 100; esac");
    fake.set_up().unwrap();
    assert_eq!(fake.installs().len(), 1);
}

#[test]
fn a_program_that_does_not_start_is_named_with_its_package() {
    let fake = Fake::new();
    fake.lacks("cpio");
    fake.program("cpio", "echo 'error while loading shared libraries: libx.so' >&2; exit 127");
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("`cpio --version` fails") && error.contains("libx.so"), "{error}");
    assert!(error.contains("--reinstall cpio"), "{error}");
}

#[test]
fn a_program_that_is_missing_after_install_is_named() {
    let fake = Fake::new();
    fs::remove_file(fake.dir.path().join("bin/mmdebstrap")).unwrap();
    fake.lacks("mmdebstrap");
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("mmdebstrap is needed and missing"), "{error}");
}

#[test]
fn without_root_and_sudo_the_command_for_root_is_told() {
    let mut fake = Fake::new();
    fake.host.root = false;
    fake.lacks("cpio");
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("there is no sudo: have root run `apt-get install"), "{error}");
    assert!(error.contains("cpio`"), "{error}");
    assert!(!fake.calls().contains("apt-get"));
}

#[test]
fn a_password_is_not_asked_for_without_a_terminal() {
    let mut fake = Fake::new();
    fake.host.root = false;
    fake.lacks("cpio");
    fake.program("sudo", "echo 'sudo: a password is required' >&2; exit 1");
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("without a terminal: run `sudo apt-get install"), "{error}");
    assert!(fake.installs().is_empty());
}

#[test]
fn with_sudo_it_is_sudo_that_runs_apt() {
    let mut fake = Fake::new();
    fake.host.root = false;
    fake.lacks("cpio");
    fake.program("sudo", r#"case $1 in -n) exit 0;; esac; exec "$@""#);
    fake.set_up().unwrap();
    assert_eq!(fake.installs().len(), 1, "{}", fake.calls());
    assert!(fake.calls().contains("sudo env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get"));
}

#[test]
fn a_full_disk_is_known_before_anything_is_done() {
    let fake = Fake::new();
    fake.lacks("cpio");
    fake.disks(100 * 1024);
    let error = fake.set_up().unwrap_err();
    assert!(error.contains("has 0.1 GiB free"), "{error}");
    assert!(!fake.calls().contains("apt-get"));
}

#[test]
fn a_disk_that_apt_fills_is_named_as_the_cause() {
    for call in ["--simulate", "-y"] {
        let fake = Fake::new();
        fake.lacks("cpio");
        let words = "E: Write error - write (28: No space left on device)";
        fake.program("apt-get", &format!("case $* in *update*) ;; *{call}*) echo '{words}' >&2; exit 100; esac"));
        let error = fake.set_up().unwrap_err();
        assert!(error.contains("there is no room to install cpio"), "{error}");
    }
}

#[test]
fn dpkg_tells_what_is_there_even_beside_what_is_not() {
    let host = Host::this();
    if !host.have("dpkg-query") {
        return;
    }
    let there = installed(&host, &["dpkg", "no-such-package-at-all"]).unwrap();
    assert_eq!(there.into_iter().collect::<Vec<_>>(), ["dpkg"]);
}

#[test]
fn every_package_is_named_once() {
    let all: Vec<_> = PACKAGES.iter().flat_map(|(packages, _)| *packages).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
}
