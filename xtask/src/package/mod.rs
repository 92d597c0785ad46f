//! `cargo xtask package`: Debian packages of what was built.
//!
//! ```text
//!   build --release ─► strip ─► tree below target/package ─► dpkg-deb ─► scx-mosix_VERSION_amd64.deb
//!                        └──► debug symbols ───────────────────────────► scx-mosix-dbgsym_VERSION_amd64.deb
//! ```
//!
//! What is installed besides the binary comes from `packaging/`, and from the binary itself, which
//! writes its own manual pages and completions.

mod page;

use crate::cmd;
use crate::product::{self, Profile};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = env!("CARGO_PKG_VERSION");

const MAINTAINER: &str = "scx_mosix maintainers <maintainers@scx-mosix.example>";

/// Names under which the binary is a command of its own.
const LINKS: [&str; 4] = ["mosrun", "mosps", "mosmon", "migrate"];

/// Completions: what the binary calls the shell, and where its package looks for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/scx_mosix"),
    ("zsh", "usr/share/zsh/vendor-completions/_scx_mosix"),
    ("fish", "usr/share/fish/vendor_completions.d/scx_mosix.fish"),
];

/// Scripts of the package, run by dpkg.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Settings that a user's changes survive.
const SETTINGS: &str = "etc/scx_mosix/config.toml";

/// Builds both packages from a binary of `profile` and prints their paths.
pub fn run(profile: Profile, progress: &Progress) -> Result<()> {
    let binary = product::build(profile, progress)?;
    let step = progress.step("packing");
    let base = product::target_dir().join("package");
    fs::create_dir_all(&base)?;
    let work = tempfile::tempdir_in(&base).context("cannot make a directory for the package")?;
    let packages = [main_package(&binary, &work.path().join("main"))?, symbols(&binary, &work.path().join("dbgsym"))?];
    let paths = packages.iter().map(|tree| tree.pack(&base)).collect::<Result<Vec<_>>>()?;
    step.done();
    for path in paths {
        println!("{}: {:.1} MB", path.display(), fs::metadata(&path)?.len() as f64 / 1e6);
    }
    Ok(())
}

/// The files of a package, before they are packed.
struct Tree {
    name: &'static str,
    root: PathBuf,
}

impl Tree {
    /// Copies a file of the work tree.
    fn install(&self, source: &Path, place: &str, mode: u32) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.write(place, &content, mode)
    }

    fn write(&self, place: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.place(place)?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(())
    }

    /// As Debian has it: compressed, without a time stamp, so that a build can be repeated.
    fn write_compressed(&self, place: &str, content: &[u8]) -> Result<()> {
        self.write(place, content, 0o644)?;
        cmd::output(Command::new("gzip").arg("-9nf").arg(self.root.join(place))).map(drop)
    }

    /// Debian's changelog, which names the version; what has changed is in ours.
    fn changelog(&self) -> Result<()> {
        let mut date = Command::new("git");
        date.current_dir(product::root()).args(["log", "-1", "--format=%aD"]);
        let date = cmd::output(&mut date).context("cannot find out when this was written")?;
        let text = format!(
            "scx-mosix ({VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- {MAINTAINER}  {}\n",
            date.trim()
        );
        self.write_compressed(&format!("usr/share/doc/{}/changelog", self.name), text.as_bytes())
    }

    /// The path of `place`, whose directory is made.
    fn place(&self, place: &str) -> Result<PathBuf> {
        let path = self.root.join(place);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(path)
    }

    /// Writes `DEBIAN/control` from a template in `packaging/debian`.
    fn control(&self, template: &str) -> Result<()> {
        let template = fs::read_to_string(packaging(&format!("debian/{template}")))?;
        let size = cmd::output(Command::new("du").args(["-sk", "--exclude=DEBIAN"]).arg(&self.root))?;
        let size = size.split_whitespace().next().context("du printed nothing")?;
        self.write(
            "DEBIAN/control",
            template
                .replace("@VERSION@", VERSION)
                .replace("@SIZE@", size)
                .replace("@MAINTAINER@", MAINTAINER)
                .as_bytes(),
            0o644,
        )
    }

    fn pack(&self, into: &Path) -> Result<PathBuf> {
        // Whatever the umask is.
        cmd::output(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&self.root))?;
        let path = into.join(format!("{}_{VERSION}_amd64.deb", self.name));
        let mut pack = Command::new("dpkg-deb");
        pack.args(["--root-owner-group", "-Zxz", "--build"]).arg(&self.root).arg(&path);
        cmd::output(&mut pack).context("dpkg-deb cannot make the package")?;
        Ok(path)
    }
}

fn packaging(path: &str) -> PathBuf {
    product::root().join("packaging").join(path)
}

fn main_package(binary: &Path, root: &Path) -> Result<Tree> {
    let tree = Tree { name: "scx-mosix", root: root.to_owned() };
    let stripped = tree.place("usr/bin/scx_mosix")?;
    let mut strip = Command::new("strip");
    strip.args(["--strip-all", "--remove-section=.comment", "-o"]).arg(&stripped).arg(binary);
    cmd::output(&mut strip).context("cannot strip the binary")?;
    for link in LINKS {
        symlink("scx_mosix", tree.place(&format!("usr/bin/{link}"))?)?;
    }
    for (shell, place) in COMPLETIONS {
        let text = cmd::output(Command::new(binary).args(["completions", shell]))?;
        tree.write(place, text.as_bytes(), 0o644)?;
    }
    manual(binary, &tree)?;
    tree.install(&packaging("systemd/scx_mosix.service"), "usr/lib/systemd/system/scx_mosix.service", 0o644)?;
    tree.install(&packaging("config.toml"), SETTINGS, 0o644)?;
    tree.write("DEBIAN/conffiles", format!("/{SETTINGS}\n").as_bytes(), 0o644)?;
    tree.install(&packaging("debian/copyright"), "usr/share/doc/scx-mosix/copyright", 0o644)?;
    tree.install(&packaging("debian/lintian-overrides"), "usr/share/lintian/overrides/scx-mosix", 0o644)?;
    tree.changelog()?;
    tree.write_compressed("usr/share/doc/scx-mosix/CHANGELOG.md", &fs::read(product::root().join("CHANGELOG.md"))?)?;
    for file in ["dashboard.json", "alerts.yml"] {
        let place = format!("usr/share/doc/scx-mosix/examples/grafana/{file}");
        tree.install(&packaging(&format!("grafana/{file}")), &place, 0o644)?;
    }
    tree.install(&product::root().join("README.md"), "usr/share/doc/scx-mosix/README.md", 0o644)?;
    for script in SCRIPTS {
        tree.install(&packaging(&format!("debian/{script}")), &format!("DEBIAN/{script}"), 0o755)?;
    }
    tree.control("control")?;
    Ok(tree)
}

/// The pages that the binary writes, those in `packaging/man`, and the settings file's.
fn manual(binary: &Path, tree: &Tree) -> Result<()> {
    let pages = tempfile::tempdir()?;
    cmd::output(Command::new(binary).arg("manual").arg(pages.path()))?;
    for directory in [pages.path(), &packaging("man")] {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).context("a page without a name")?;
            let Some((_, section)) = name.rsplit_once('.') else { bail!("{name} is no manual page") };
            tree.write_compressed(&format!("usr/share/man/man{section}/{name}"), &fs::read(&path)?)?;
        }
    }
    for link in &LINKS[1..] {
        symlink("mosrun.1.gz", tree.place(&format!("usr/share/man/man1/{link}.1.gz"))?)?;
    }
    let settings = page::of_settings(&fs::read_to_string(packaging("config.toml"))?);
    tree.write_compressed("usr/share/man/man5/scx_mosix.toml.5", settings.as_bytes())
}

/// What debuggers look for by the binary's build id.
fn symbols(binary: &Path, root: &Path) -> Result<Tree> {
    let tree = Tree { name: "scx-mosix-dbgsym", root: root.to_owned() };
    let notes = cmd::output(Command::new("readelf").arg("--notes").arg(binary))?;
    let id = build_id(&notes).context("the binary has no build id")?;
    let place = tree.place(&format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]))?;
    let mut copy = Command::new("objcopy");
    copy.args(["--only-keep-debug", "--compress-debug-sections"]).arg(binary).arg(&place);
    cmd::output(&mut copy).context("cannot take the debug symbols out")?;
    fs::set_permissions(&place, Permissions::from_mode(0o644))?;
    tree.changelog()?;
    tree.install(&packaging("debian/copyright"), "usr/share/doc/scx-mosix-dbgsym/copyright", 0o644)?;
    tree.control("control-dbgsym")?;
    Ok(tree)
}

/// From what `readelf --notes` prints; at least one byte for the directory and one for the file.
fn build_id(notes: &str) -> Option<&str> {
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: "))?.trim();
    (id.len() >= 4 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_is_read_from_the_notes() {
        let notes = "  Owner  Data size\n  GNU 0x14 NT_GNU_BUILD_ID\n    Build ID: 0a1b2c3d4e\n";
        assert_eq!(build_id(notes), Some("0a1b2c3d4e"));
        assert_eq!(build_id("    Build ID: 0a\n"), None);
        assert_eq!(build_id(""), None);
    }

    #[test]
    fn what_is_to_be_installed_is_in_the_work_tree() {
        for file in
            ["config.toml", "systemd/scx_mosix.service", "man/mosrun.1", "debian/control", "debian/control-dbgsym"]
        {
            assert!(packaging(file).is_file(), "{file}");
        }
        for script in SCRIPTS {
            let text = fs::read_to_string(packaging(&format!("debian/{script}"))).unwrap();
            assert!(text.starts_with("#!/bin/sh\nset -e\n"), "{script}");
        }
    }
}
