//! The command line.

use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    api::{SOCKET_NAME, backend::Destination, name::ProcessName},
    keys::{DEFAULT_KEY_PATH, NodeName},
};

/// Names under which the binary is a command of its own, for those who know them.
const ALIASES: [(&str, &str); 3] = [("mosrun", "run"), ("mosps", "ps"), ("migrate", "migrate")];

const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 refused or failed; 2 wrong usage; 3 no daemon answers.
`run` gives the program's own, 126 if the program cannot be run, 127 if there is no such program.";

/// A few Linux machines that work as one: running programs move by themselves to where there is CPU and memory.
///
/// Without a command this is the daemon, one on each machine, run as root.
#[derive(Clone, Debug, Parser)]
#[command(version, about, name = "scx_mosix", args_conflicts_with_subcommands = true, after_help = EXIT_STATUS)]
pub struct Cli {
    /// What to do; the daemon if nothing is given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The daemon's options.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon (as without a command)
    Daemon(DaemonArgs),
    /// Run a program that may move to other machines
    Run(RunArgs),
    /// List the programs that `run` started, and where they are
    Ps(PsArgs),
    /// List the machines
    Nodes(ListArgs),
    /// Move a program
    Migrate(MigrateArgs),
    /// Move a program only if someone asks, from now on
    Lock(ProcessArgs),
    /// Let a program move by itself again
    Unlock(ProcessArgs),
    /// Say where a program may run
    Allow(AllowArgs),
    /// Send the guests of this machine away, and take no others (root)
    Drain(DrainArgs),
    /// List the moves of programs, the newest first
    Migrations(ListArgs),
    /// Say why a program is where it is
    Why(ProcessArgs),
    /// Say what this machine can do and what is missing
    Check(ListArgs),
    /// Make the cluster's key, and certificates for clients
    #[command(subcommand)]
    Key(KeyCommand),
    /// One job's agent at home; started by the daemon
    #[command(hide = true)]
    AgentHome,
    /// One guest's agent; started by the daemon
    #[command(hide = true)]
    AgentGuest,
    /// The kernel scheduler alone, without a cluster, until SIGINT or SIGTERM
    #[command(hide = true)]
    Scheduler(SchedulerArgs),
}

/// Options of the daemon.
#[derive(Clone, Debug, Args)]
pub struct DaemonArgs {
    /// The cluster's key, the same on all machines [default: /etc/scx_mosix/key if there is one]; without a key, no network
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// This machine's name in the cluster [default: the host name up to its first dot]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<NodeName>,
    /// Where to listen for the other machines, TCP and UDP
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:7470")]
    pub listen: SocketAddr,
    /// Under which address the others reach this machine [default: found out]
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<IpAddr>,
    /// A machine of the cluster to join; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    pub join: Vec<String>,
    /// Settings, as TOML; `[placement]`, `[gossip]` and `[scheduler]` set the constants of each
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Leave scheduling to the kernel's own scheduler
    #[arg(long)]
    pub no_sched_ext: bool,
    /// Move nothing unless someone asks
    #[arg(long)]
    pub no_balance: bool,
    /// What belongs to the running daemon
    #[command(flatten)]
    pub run_dir: RunDir,
}

impl DaemonArgs {
    /// The key file: the one given, else the default one if it exists.
    #[must_use]
    pub fn key_file(&self) -> Option<PathBuf> {
        self.key.clone().or_else(|| Some(PathBuf::from(DEFAULT_KEY_PATH)).filter(|path| path.exists()))
    }
}

/// Where the daemon's run-time files are.
#[derive(Clone, Debug, Args)]
pub struct RunDir {
    /// Where the daemon has its sockets
    #[arg(long = "run-dir", value_name = "DIR", default_value = "/run/scx_mosix")]
    pub path: PathBuf,
}

impl RunDir {
    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Never move it unless someone asks
    #[arg(long)]
    pub stay: bool,
    /// The only machines beside this one where it may run
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    pub nodes: Vec<NodeName>,
    /// Its class, of those in the daemon's settings: what holds for that holds for it
    #[arg(long, value_name = "NAME")]
    pub class: Option<String>,
    /// The daemon.
    #[command(flatten)]
    pub run_dir: RunDir,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// How to write a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, cut to the terminal's width
    Table,
    /// More columns, nothing cut
    Wide,
    /// JSON, for programs
    Json,
}

/// What all commands that list something take.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// How to write it
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: Format,
    /// The daemon.
    #[command(flatten)]
    pub run_dir: RunDir,
}

/// `ps`.
#[derive(Clone, Debug, Args)]
pub struct PsArgs {
    /// Also the guests of other machines
    #[arg(long, short)]
    pub all: bool,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `migrate`.
#[derive(Clone, Debug, Args)]
pub struct MigrateArgs {
    /// The program: its pid, or NODE/PID for a guest of another machine
    #[arg(value_name = "PID", value_parser = process)]
    pub process: ProcessName,
    /// Where to: a machine, `home`, or `best`
    #[arg(value_name = "NODE|home|best", value_parser = destination)]
    pub to: Destination,
    /// Wait until it runs there
    #[arg(long, short)]
    pub wait: bool,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// What commands about one program take.
#[derive(Clone, Debug, Args)]
pub struct ProcessArgs {
    /// The program: its pid, or NODE/PID for a guest of another machine
    #[arg(value_name = "PID", value_parser = process)]
    pub process: ProcessName,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `allow`.
#[derive(Clone, Debug, Args)]
pub struct AllowArgs {
    /// The program: its pid, or NODE/PID for a guest of another machine
    #[arg(value_name = "PID", value_parser = process)]
    pub process: ProcessName,
    /// The only machines beside its home where it may run, or `any`
    #[arg(value_name = "NODE,…|any", value_parser = allowed)]
    pub nodes: AllowedNodes,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// The nodes where a program may run; empty for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedNodes(pub Vec<String>);

/// `drain`.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// Take guests again
    #[arg(long, conflicts_with = "wait")]
    pub undo: bool,
    /// Wait until none is left
    #[arg(long, short)]
    pub wait: bool,
    /// How to write it.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `key`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new key: copy it to all machines of the cluster
    Generate {
        /// Where to write it
        #[arg(long = "out", alias = "key", value_name = "FILE", default_value = DEFAULT_KEY_PATH)]
        out: PathBuf,
    },
    /// Make a certificate with which a client may use the API from another machine: ca.pem, client.pem, client-key.pem
    ClientCert {
        /// The directory for the three files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The cluster's key
        #[arg(long, value_name = "FILE", default_value = DEFAULT_KEY_PATH)]
        key: PathBuf,
        /// The client's name, which the daemons log
        #[arg(long, value_name = "NAME", default_value = "client")]
        name: NodeName,
    },
}

/// `scheduler`.
#[derive(Clone, Debug, Args)]
pub struct SchedulerArgs {
    /// End after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub duration_s: Option<u64>,
}

/// The command line of this process; ends it with a message if that is wrong.
#[must_use]
pub fn parse() -> Cli {
    Cli::parse_from(expand(std::env::args_os().collect()))
}

/// Puts the command that argv[0] stands for behind it.
fn expand(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().and_then(|first| Path::new(first).file_name()).and_then(OsStr::to_str);
    if let Some((_, command)) = ALIASES.iter().find(|(alias, _)| Some(*alias) == name) {
        args.insert(1, OsString::from(*command));
    }
    args
}

/// `PID` or `NODE/PID`; the node that is asked is called `-`.
fn process(text: &str) -> Result<ProcessName, String> {
    let (node, pid) = text.split_once('/').unwrap_or(("-", text));
    let pid = pid.parse::<i32>().ok().filter(|pid| *pid > 0 && !node.is_empty());
    pid.map(|pid| ProcessName { node: node.to_owned(), pid }).ok_or_else(|| "it must be PID or NODE/PID".to_owned())
}

fn allowed(text: &str) -> Result<AllowedNodes, String> {
    if text == "any" {
        return Ok(AllowedNodes(Vec::new()));
    }
    let read = |node: &str| NodeName::new(node).map(|node| node.to_string()).map_err(|error| error.to_string());
    Ok(AllowedNodes(text.split(',').map(read).collect::<Result<_, _>>()?))
}

fn destination(text: &str) -> Result<Destination, String> {
    Ok(match text {
        "home" => Destination::Home,
        "best" => Destination::Best,
        node => Destination::Node(NodeName::new(node).map_err(|error| error.to_string())?.as_str().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(expand(line.split(' ').map(Into::into).collect()))
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_is_the_daemon() {
        let cli = parse("scx_mosix --join n1 --join 10.0.0.2:7471 --no-balance").unwrap();
        assert!(cli.command.is_none() && cli.daemon.no_balance);
        assert_eq!(cli.daemon.join, ["n1", "10.0.0.2:7471"]);
        assert!(parse("scx_mosix --no-balance ps").is_err());
        assert!(
            matches!(parse("scx_mosix daemon --no-sched-ext").unwrap().command, Some(Command::Daemon(args)) if args.no_sched_ext)
        );
    }

    #[test]
    fn a_programs_own_options_are_its_own() {
        let run = |line| match parse(line).unwrap().command {
            Some(Command::Run(args)) => args,
            other => panic!("{other:?}"),
        };
        for line in ["scx_mosix run xz -9e --stay", "scx_mosix run -- xz -9e --stay", "/usr/bin/mosrun xz -9e --stay"] {
            let args = run(line);
            assert_eq!((args.stay, args.command), (false, vec!["xz".into(), "-9e".into(), "--stay".into()]), "{line}");
        }
        let args = run("mosrun --stay -- -odd --");
        assert_eq!((args.stay, args.command), (true, vec!["-odd".into(), "--".into()]));
        assert!(parse("mosrun").is_err());
        let args = run("mosrun --nodes n2,N3 --class render xz --nodes n4");
        let nodes: Vec<String> = args.nodes.iter().map(ToString::to_string).collect();
        assert_eq!((nodes, args.class.as_deref()), (vec!["n2".into(), "n3".into()], Some("render")));
        assert_eq!(args.command, ["xz", "--nodes", "n4"]);
        assert!(parse("mosrun --nodes a_b/c xz").is_err());
    }

    #[test]
    fn where_a_program_may_run_is_read() {
        let allow = |line| match parse(line).map(|cli| cli.command) {
            Ok(Some(Command::Allow(args))) => Ok(args.nodes.0),
            Err(error) => Err(error.kind()),
            other => panic!("{other:?}"),
        };
        assert_eq!(allow("scx_mosix allow 7 n2,N3"), Ok(vec!["n2".into(), "n3".into()]));
        assert_eq!(allow("scx_mosix allow 7 any"), Ok(vec![]));
        for bad in ["scx_mosix allow 7", "scx_mosix allow 7 n2,,n3", "scx_mosix allow 7 n2 n3"] {
            assert!(allow(bad).is_err(), "{bad}");
        }
        assert!(parse("scx_mosix drain --undo --wait").is_err());
    }

    #[test]
    fn a_program_and_a_place_are_read() {
        let migrate = |line| match parse(line).map(|cli| cli.command) {
            Ok(Some(Command::Migrate(args))) => Ok((args.process.to_string(), args.to)),
            Err(error) => Err(error.kind()),
            other => panic!("{other:?}"),
        };
        assert_eq!(migrate("migrate 7 N2"), Ok(("-/7".into(), Destination::Node("n2".into()))));
        assert_eq!(migrate("scx_mosix migrate n1/7 home --wait"), Ok(("n1/7".into(), Destination::Home)));
        assert_eq!(migrate("migrate 7 best"), Ok(("-/7".into(), Destination::Best)));
        for bad in ["migrate 0 n2", "migrate -1 n2", "migrate x n2", "migrate /7 n2", "migrate 7 a_b/c", "migrate 7"] {
            assert!(migrate(bad).is_err(), "{bad}");
        }
    }
}
