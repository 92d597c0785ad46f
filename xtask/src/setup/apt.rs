//! Installing packages by apt, which must never cost the user a package that he has.

use super::{CLANGS, Group, Host, clang_packages, names};
use crate::cmd;
use crate::progress::Progress;
use anyhow::{Context, Result, anyhow, bail};

/// A mirror that does not answer must be known within the first minute. A fresh machine may be
/// installing its own updates, which holds apt's lock.
const PATIENCE: &[&str] = &[
    "-o",
    "Acquire::Retries=1",
    "-o",
    "Acquire::http::Timeout=15",
    "-o",
    "Acquire::https::Timeout=15",
    "-o",
    "DPkg::Lock::Timeout=120",
];

/// Installs the packages, or says in one sentence why not.
pub fn install(host: &Host, progress: &Progress, mut groups: Vec<Group>) -> Result<()> {
    may_install(host, &names(&groups))?;
    let step = progress.step("asking the mirrors what they have (apt-get update)");
    let unreached = update(host).err();
    step.done();
    if let Some(error) = &unreached {
        // A third-party source may be dead: what matters is whether the packages can be had.
        progress.say(format!("not all of apt's sources answer: {error:#}"));
    }
    for group in &mut groups {
        if group.packages.iter().any(|package| package.starts_with("clang-")) {
            let version = CLANGS.iter().copied().find(|version| available(host, &format!("clang-{version}")));
            group.packages = clang_packages(version.unwrap_or(CLANGS[0]));
        }
    }
    let missing = names(&groups);
    let release = match release_that_fits(host, &missing) {
        Ok(release) => release,
        Err(Misfit::Unsolvable { said, .. }) if said.contains(NO_SPACE) => return Err(full(&missing)),
        Err(Misfit::Unknown(what)) if unreached.is_some() => return Err(offline(&what)),
        Err(misfit) => bail!("{misfit}"),
    };
    for group in &groups {
        progress.say(format!("installing {}: {}", group.packages.join(", "), group.why));
    }
    let step = progress.step("installing packages (apt-get install)");
    let mut command = host.command_as_root("apt-get");
    command.args(["-q", "-y"]).args(PATIENCE).args(arguments(&release, &missing));
    cmd::output(&mut command).map_err(|error| explain(error, &missing))?;
    step.done();
    Ok(())
}

/// What `apt-get` is told, in earnest and in simulation. Without --allow-downgrades, -y refuses
/// them.
fn arguments<'a>(release: &'a Option<String>, packages: &[&'a str]) -> Vec<&'a str> {
    let release = release.iter().flat_map(|release| ["-t", release]);
    release.chain(["install", "--no-install-recommends", "--no-remove"]).chain(packages.iter().copied()).collect()
}

/// Whether this user can become root.
fn may_install(host: &Host, packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if host.root {
        return Ok(());
    }
    if !host.have("sudo") {
        bail!(
            "packages are missing, you are not root, and there is no sudo: have root run `{by_hand}`, then try again"
        );
    }
    if cmd::output(host.command("sudo").args(["-n", "true"])).is_ok() {
        return Ok(());
    }
    if !host.terminal {
        bail!(
            "packages are missing, and sudo cannot ask for a password without a terminal: run `sudo {by_hand}`, then try again"
        );
    }
    eprintln!("xtask: packages are missing; sudo asks for your password to install them");
    let mut ask = host.command("sudo");
    if !ask.arg("-v").stdin(std::process::Stdio::inherit()).status().context("cannot start sudo")?.success() {
        bail!("packages are missing, and sudo refuses you: have root run `{by_hand}`, then try again");
    }
    Ok(())
}

fn update(host: &Host) -> Result<()> {
    let mut command = host.command_as_root("apt-get");
    command.args(["-q", "--error-on=any"]).args(PATIENCE).arg("update");
    match cmd::output(&mut command) {
        Ok(_) => Ok(()),
        Err(error) => bail!("{}", first_complaint(&format!("{error:#}"))),
    }
}

/// The first of apt's `E:` and `W:` lines, which name what failed; the later ones repeat it.
fn first_complaint(said: &str) -> String {
    let complaint = said.lines().find_map(|line| line.strip_prefix("E: ").or_else(|| line.strip_prefix("W: ")));
    complaint.unwrap_or(said).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn available(host: &Host, package: &str) -> bool {
    let policy = cmd::output(host.command("apt-cache").args(["policy", package])).unwrap_or_default();
    policy.lines().any(|line| line.trim_start().starts_with("Candidate:") && !line.contains("(none)"))
}

/// Why packages cannot be installed beside what is there.
#[derive(Debug, PartialEq, Eq)]
enum Misfit {
    /// apt would take installed packages away or replace them by older ones.
    Harm { wanted: Vec<String>, removed: Vec<String>, downgraded: Vec<String> },
    /// apt finds no way: its own words.
    Unsolvable { wanted: Vec<String>, said: String },
    /// No source has them: apt's own words.
    Unknown(String),
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Harm { wanted, removed, downgraded } => {
                let verb =
                    |verb: &str, names: &[String]| (!names.is_empty()).then(|| format!("{verb} {}", names.join(" ")));
                let harms = [verb("remove", removed), verb("downgrade", downgraded)];
                let harms = harms.into_iter().flatten().collect::<Vec<_>>().join(" and ");
                let wanted = wanted.join(" ");
                write!(
                    f,
                    "apt would have to {harms} to install {wanted}, so nothing was changed: enable the source that \
                     the installed version came from (backports?) and run `apt-get install -t RELEASE {wanted}`, \
                     then try again"
                )
            }
            Self::Unsolvable { wanted, said } => write!(
                f,
                "apt cannot install {} beside what is installed ({said}), so nothing was changed: enable the source \
                 that the installed versions came from, or install it yourself, then try again",
                wanted.join(" ")
            ),
            Self::Unknown(said) => write!(
                f,
                "no source of apt has a needed package ({said}): enable this distribution's main repository in \
                 /etc/apt (for Ubuntu, also universe), then try again"
            ),
        }
    }
}

/// The release to install from such that nothing is removed or downgraded: apt's own choice, else
/// one of the backports that are enabled, as packages from there may be installed already.
fn release_that_fits(host: &Host, packages: &[&str]) -> Result<Option<String>, Misfit> {
    let Err(misfit) = simulate(host, &None, packages) else { return Ok(None) };
    if matches!(misfit, Misfit::Unknown(_)) {
        return Err(misfit);
    }
    let policy = cmd::output(host.command("apt-cache").arg("policy")).unwrap_or_default();
    for release in backports(&policy).into_iter().map(Some) {
        if simulate(host, &release, packages).is_ok() {
            return Ok(release);
        }
    }
    // Which of them is it? Each alone tells more exactly.
    let alone = packages.iter().filter_map(|package| simulate(host, &None, &[package]).err()).next();
    Err(alone.unwrap_or(misfit))
}

/// The backports among the releases of `apt-cache policy`.
fn backports(policy: &str) -> Vec<String> {
    let archives = policy.lines().filter_map(|line| line.trim_start().strip_prefix("release "));
    let names = archives.flat_map(|line| line.split(',').filter_map(|part| part.strip_prefix("a=")));
    let mut found: Vec<String> = names.filter(|name| name.ends_with("-backports")).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

fn simulate(host: &Host, release: &Option<String>, packages: &[&str]) -> Result<(), Misfit> {
    let wanted = || packages.iter().map(|&name| name.to_owned()).collect();
    // Without --no-remove, as it must tell what it would remove.
    let words = arguments(release, packages).into_iter().filter(|&word| word != "--no-remove");
    let output = match host.command("apt-get").arg("--simulate").args(words).output() {
        Ok(output) => output,
        Err(error) => {
            return Err(Misfit::Unsolvable { wanted: wanted(), said: format!("cannot start apt-get: {error}") });
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let (removed, downgraded) = harms(&said);
    if !removed.is_empty() || !downgraded.is_empty() {
        return Err(Misfit::Harm { wanted: wanted(), removed, downgraded });
    }
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("Unable to locate package") || errors.contains("has no installation candidate") {
        return Err(Misfit::Unknown(first_complaint(&errors)));
    }
    let dependency = said.lines().find(|line| line.contains(" : Depends: ")).map(|line| line.trim().to_owned());
    Err(Misfit::Unsolvable { wanted: wanted(), said: dependency.unwrap_or_else(|| first_complaint(&errors)) })
}

/// What a simulation would remove and downgrade.
fn harms(said: &str) -> (Vec<String>, Vec<String>) {
    let word = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let removed = said.lines().filter_map(|line| line.strip_prefix("Remv ")).map(word).collect();
    let downgraded = said
        .lines()
        .skip_while(|line| !line.starts_with("The following packages will be DOWNGRADED"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect();
    (removed, downgraded)
}

fn offline(what: &str) -> anyhow::Error {
    anyhow!(
        "apt's mirrors cannot be reached and packages are missing ({what}): connect this computer to the network, or \
         correct /etc/apt/sources.list and its proxy, then try again"
    )
}

/// The system's words for a full disk.
const NO_SPACE: &str = "No space left on device";

fn full(packages: &[&str]) -> anyhow::Error {
    anyhow!(
        "there is no room to install {}: free some (`apt-get clean`, `df -h /usr /var/cache/apt`), then try again",
        packages.join(" ")
    )
}

/// A failed installation in one sentence, where its cause is a known one.
fn explain(error: anyhow::Error, packages: &[&str]) -> anyhow::Error {
    let said = format!("{error:#}");
    if said.contains("enough free space") || said.contains(NO_SPACE) {
        return full(packages);
    }
    if said.contains("Failed to fetch") || said.contains("Unable to fetch") {
        return offline(&first_complaint(&said));
    }
    if said.contains("Could not get lock") || said.contains("Unable to acquire the dpkg frontend lock") {
        return anyhow!("another program holds apt's lock: wait until it has ended, then try again");
    }
    error.context("cannot install what is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_tells_what_would_be_removed() {
        let said = "Reading package lists...\nThe following packages will be REMOVED:\n  qemu-utils\n\
            0 upgraded, 7 newly installed, 1 to remove and 3 not upgraded.\n\
            Remv qemu-utils [1:10.0.2+ds-2~bpo12+1]\nInst qemu-system-common (1:7.2 Debian:12 [amd64])\n";
        assert_eq!(harms(said), (vec!["qemu-utils".to_owned()], vec![]));
    }

    #[test]
    fn a_simulation_tells_what_would_be_downgraded() {
        let said = "The following packages will be DOWNGRADED:\n  libelf1 libdw1\n  zlib1g\n\
            0 upgraded, 1 newly installed, 3 downgraded, 0 to remove and 3 not upgraded.\n";
        assert_eq!(harms(said).1, ["libelf1", "libdw1", "zlib1g"]);
        assert_eq!(harms("0 upgraded, 1 newly installed, 0 to remove"), (vec![], vec![]));
    }

    #[test]
    fn backports_are_found_among_the_enabled_releases() {
        let policy = " 100 http://m/debian bookworm-backports/main amd64 Packages\n     \
            release v=,o=Debian Backports,a=stable-backports,n=bookworm-backports,l=Debian Backports,c=main,b=amd64\n \
            500 http://m/debian bookworm/main amd64 Packages\n     release v=12.11,o=Debian,a=oldstable,n=bookworm\n";
        assert_eq!(backports(policy), ["stable-backports"]);
    }

    #[test]
    fn the_first_complaint_stands_for_all() {
        let said = "`apt-get update` failed: exit status: 100: Err:1 x\nW: Failed to fetch http://m/InRelease  Could not resolve 'm'\n\
            E: Some index files failed to download.";
        assert_eq!(first_complaint(said), "Failed to fetch http://m/InRelease Could not resolve 'm'");
        assert_eq!(first_complaint("other words"), "other words");
    }
}
