//! The guests' image: built once from `vm-images/`, kept in the cache under a name made of a hash
//! of those files.
//!
//! `packages.lock` says which versions were last built. They are asked for again; what the mirror
//! no longer has is replaced by its newest version, and said loudly, because suites move and a
//! build must not fail for it.

use super::sources;
use crate::cmd;
use crate::product;
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a guest boots from.
pub struct Image {
    /// The directory with its files, named as `vm-images/customize.sh` names them.
    pub dir: PathBuf,
}

/// Which of the image's kernels a node boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kernel {
    /// The newest with sched_ext.
    #[default]
    Scx,
    /// Debian's own of the suite, without sched_ext.
    Plain,
}

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Self::Scx => "scx",
            Self::Plain => "plain",
        }
    }
}

impl Image {
    /// The root file system, never written to: each node writes to an overlay of its own.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }

    /// The emulator: the image brings its own, whatever QEMU this computer has or lacks.
    pub fn qemu(&self) -> PathBuf {
        self.dir.join("qemu/qemu-system-x86_64")
    }

    /// `qemu-img` of the same version.
    pub fn qemu_img(&self) -> PathBuf {
        self.dir.join("qemu/qemu-img")
    }

    /// The kernel's file.
    pub fn kernel(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(format!("vmlinuz-{}", kernel.name()))
    }

    /// The initramfs with that kernel's modules.
    pub fn initramfs(&self, kernel: Kernel) -> PathBuf {
        self.dir.join(format!("initramfs-{}.cpio", kernel.name()))
    }
}

/// Where images and other things made once lie: `target/vm`, or `SCX_MOSIX_VM_CACHE` for several
/// work trees that share them.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("SCX_MOSIX_VM_CACHE").map_or_else(|| product::target_dir().join("vm"), PathBuf::from)
}

/// A lock that other processes respect until it is dropped.
pub struct Locked {
    _file: fs::File,
}

impl Locked {
    /// Waits for the lock named `name` in the cache.
    pub fn wait(name: &str) -> Result<Self> {
        let path = cache_dir().join(format!("{name}.lock"));
        fs::create_dir_all(cache_dir())?;
        let file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// The image for the work tree as it is, built if it is not in the cache yet.
pub fn ensure(progress: &Progress) -> Result<Image> {
    let image = Image { dir: image_dir()? };
    if image.dir.is_dir() {
        return Ok(image);
    }
    let _locked = Locked::wait("image")?;
    if !image.dir.is_dir() {
        build(progress, &image.dir, true)?;
    }
    Ok(image)
}

/// The step in which the image is built.
pub const BUILDING: &str = "building the guests' image";

/// Whether the image of the work tree as it is lies in the cache.
pub fn is_built() -> bool {
    image_dir().is_ok_and(|dir| dir.is_dir())
}

/// Fails at once where the image is yet to be built and its packages cannot be had, before anything
/// that takes long begins beside it.
pub fn rehearse(progress: &Progress) -> Result<()> {
    if is_built() {
        return Ok(());
    }
    let step = progress.step("asking whether Debian's packages for the guests can be had");
    let mut command = Command::new("mmdebstrap");
    command.args(["--simulate", "--variant=essential", "--format=null", "trixie", "-"]).env("TMPDIR", "/var/tmp");
    command.args(sources::for_guests().lines());
    let output = command.stdin(Stdio::null()).output().context("cannot start mmdebstrap")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let complaint = said.lines().filter_map(|line| line.strip_prefix("E: ")).next();
        bail!(
            "the guests' system cannot be made of Debian's packages ({}): connect this computer to the network, or \
             correct the mirror in /etc/apt, then try again",
            complaint.unwrap_or_else(|| said.trim())
        );
    }
    step.done();
    Ok(())
}

/// Builds the image with the newest versions and records them in `packages.lock`.
pub fn update_lock(progress: &Progress) -> Result<()> {
    let _locked = Locked::wait("image")?;
    let fresh = cache_dir().join("image-new");
    build(progress, &fresh, false)?;
    fs::copy(fresh.join("manifest"), lock_path()).context("cannot write packages.lock")?;
    let place = image_dir()?;
    if place.exists() {
        fs::remove_dir_all(&fresh)?;
    } else {
        fs::rename(&fresh, place)?;
    }
    Ok(())
}

fn lock_path() -> PathBuf {
    product::root().join("vm-images/packages.lock")
}

fn image_dir() -> Result<PathBuf> {
    let mut hash = Fnv::default();
    hash_tree(&product::root().join("vm-images"), &mut hash).context("cannot read vm-images/")?;
    Ok(cache_dir().join(format!("image-{:016x}", hash.0)))
}

/// FNV-1a, 64 bits: names files in a cache, nothing more.
pub struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Mixes `bytes` in.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn hash_tree(directory: &Path, hash: &mut Fnv) -> std::io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        hash.add(entry.file_name().as_encoded_bytes());
        hash.add(&[0]);
        if entry.file_type()?.is_dir() {
            hash_tree(&entry.path(), hash)?;
        } else {
            hash.add(&fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// What a lock or manifest says: ("package", name) or ("kernel", role) to version.
type Versions = BTreeMap<(String, String), String>;

fn parse_versions(text: &str) -> Versions {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            Some(((words.next()?, words.next()?), words.next()?))
        })
        .collect()
}

/// One line for each thing whose version is another now.
fn changes(locked: &Versions, used: &Versions) -> Vec<String> {
    let mut lines = Vec::new();
    for ((kind, name), version) in used {
        match locked.get(&(kind.clone(), name.clone())) {
            Some(before) if before == version => {}
            Some(before) => lines.push(format!("{kind} {name}: {before} is now {version}")),
            None => lines.push(format!("{kind} {name}: new, {version}")),
        }
    }
    for ((kind, name), version) in locked {
        if !used.contains_key(&(kind.clone(), name.clone())) {
            lines.push(format!("{kind} {name}: {version} is gone"));
        }
    }
    lines
}

/// apt preferences that ask for the locked versions. A version that is no longer there has no
/// effect: the newest is taken.
fn pins(locked: &Versions) -> String {
    locked
        .iter()
        .filter(|((kind, _), _)| kind == "package")
        .map(|((_, name), version)| format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n"))
        .collect()
}

fn build(progress: &Progress, place: &Path, pinned: bool) -> Result<()> {
    let step = progress.step(BUILDING);
    let locked = match fs::read_to_string(lock_path()) {
        Ok(text) if pinned => parse_versions(&text),
        _ => Versions::new(),
    };

    // Not below our own directories: without root, the packages are unpacked in a user namespace
    // that may not read there.
    let work = tempfile::Builder::new().prefix("scx-mosix-image-").tempdir_in("/var/tmp")?;
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))?;
    cmd::run(Command::new("cp").arg("-R").arg(product::root().join("vm-images/.")).arg(work.path()))?;
    cmd::run(Command::new("chmod").args(["-R", "a+rX"]).arg(work.path()))?;
    let out = work.path().join("out");
    fs::create_dir(&out)?;
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777))?;
    fs::write(work.path().join("lock-pins"), pins(&locked))?;
    let kernels = locked.iter().filter(|((kind, _), _)| kind == "kernel");
    let kernels: String = kernels.map(|((_, role), release)| format!("{role} {release}\n")).collect();
    fs::write(work.path().join("kernels.lock"), kernels)?;

    run_mmdebstrap(work.path())?;

    let used = fs::read_to_string(out.join("manifest")).context("the image's build left no manifest")?;
    if pinned {
        report_changes(progress, &changes(&locked, &parse_versions(&used)));
    }
    let unfinished = place.with_extension("unfinished");
    for directory in [&unfinished, &place.to_path_buf()] {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
    }
    cmd::run(Command::new("cp").args(["-R", "--sparse=always"]).arg(&out).arg(&unfinished))?;
    fs::rename(&unfinished, place)?;
    step.done();
    Ok(())
}

fn report_changes(progress: &Progress, changes: &[String]) {
    if changes.is_empty() {
        return;
    }
    progress.say("the image differs from vm-images/packages.lock, because the mirror no longer has what it names:");
    for line in changes {
        progress.say(format!("  {line}"));
    }
    progress.say("if that is to stay, run `cargo xtask vm image --update-lock` and commit the lock");
}

fn run_mmdebstrap(work: &Path) -> Result<()> {
    let list = fs::read_to_string(work.join("packages.list"))?;
    let packages: Vec<&str> = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=minbase", "--format=null", "--aptopt=APT::Install-Recommends \"false\""])
        .arg(format!("--include={}", packages.join(",")))
        .arg(format!("--setup-hook=sh {}/sources.sh \"$1\"", work.display()))
        .arg(format!("--customize-hook=sh {}/customize.sh \"$1\"", work.display()))
        // /tmp may be mounted without device files.
        .env("TMPDIR", "/var/tmp");
    for path in ["doc/*", "man/*", "locale/*"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}"));
    }
    // stress-ng is linked with a graphics stack; the drivers behind it are large and never loaded.
    for library in ["libLLVM*", "libgallium*", "libz3*"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/lib/*/{library}"));
    }
    command.args(["trixie", "-"]);
    let sources = sources::for_guests();
    if !sources.is_empty() {
        let path = work.join("host-sources.list");
        fs::write(&path, sources)?;
        command.arg(path);
    }
    let log = work.join("log");
    let file = fs::File::create(&log)?;
    let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status();
    if !status.context("cannot start mmdebstrap: run `cargo xtask setup`")?.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        bail!("cannot build the guests' image; mmdebstrap said:\n{}", cmd::tail(said.trim(), 30));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "kernel scx 7.3.4+deb13-cloud-amd64\npackage criu 4.1.1-1\npackage dash 0.5\n";

    #[test]
    fn the_same_versions_are_no_change() {
        assert!(changes(&parse_versions(LOCK), &parse_versions(LOCK)).is_empty());
    }

    #[test]
    fn every_difference_is_told() {
        let used = parse_versions("kernel scx 7.4.1+deb13-cloud-amd64\npackage criu 4.1.1-1\npackage bash 5.2\n");
        let told = changes(&parse_versions(LOCK), &used);
        let expected = [
            "kernel scx: 7.3.4+deb13-cloud-amd64 is now 7.4.1+deb13-cloud-amd64",
            "package bash: new, 5.2",
            "package dash: 0.5 is gone",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn packages_are_pinned_and_kernels_are_not() {
        let pins = pins(&parse_versions(LOCK));
        assert!(pins.contains("Package: criu\nPin: version 4.1.1-1\nPin-Priority: 1001\n"));
        assert!(!pins.contains("7.3.4"));
    }
}
