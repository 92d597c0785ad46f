//! Command lines as users write them.

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
fn what_a_node_may_use_is_read_and_a_wrong_value_is_explained() {
    let limits = |line: &str| parse(line).map(|cli| Limits::from(cli.daemon.limits)).map_err(|error| error.to_string());
    let wanted = Limits { cpus: "0.6".parse().ok(), memory_mib: Some(512) };
    assert_eq!(limits("scx_mosix --cpus 0.6 --memory 512"), Ok(wanted));
    assert_eq!(limits("scx_mosix"), Ok(Limits::default()));
    for bad in ["0", "-1", "many"] {
        let error = limits(&format!("scx_mosix --cpus={bad}")).unwrap_err();
        assert!(error.contains("a number of CPUs from 0.01 to 65536, such as 0.6 or 2"), "{error}");
    }
    assert!(limits("scx_mosix --memory 8").unwrap_err().contains("8 is not in 16..=4294967295"));
    assert!(limits("scx_mosix --memory 1.5").is_err());
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
fn a_move_to_cancel_is_named_by_program_or_migration() {
    let cancel = |line: &str| match parse(line).map(|cli| cli.command) {
        Ok(Some(Command::Cancel(args))) => Ok(args.what),
        Err(error) => Err(error.kind()),
        other => panic!("{other:?}"),
    };
    let of = |node: &str| CancelWhat::Process(JobId::new(node, 7));
    assert_eq!(cancel("scx_mosix cancel 7"), Ok(of("-")));
    assert_eq!(cancel("scx_mosix cancel n2/7"), Ok(of("n2")));
    let id = "00112233445566778899aabbccddeeff";
    let line = format!("scx_mosix cancel {id}");
    assert_eq!(cancel(&line), Ok(CancelWhat::Migration(id.parse().unwrap())));
    for bad in ["scx_mosix cancel", "scx_mosix cancel 0", "scx_mosix cancel 00ff", "scx_mosix cancel 7 n2"] {
        assert!(cancel(bad).is_err(), "{bad}");
    }
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

#[test]
fn another_machine_is_watched_with_credentials_only() {
    let top = |line| match parse(line).map(|cli| cli.command) {
        Ok(Some(Command::Top(args))) => Ok((args.read_only, args.server, args.credentials)),
        Err(error) => Err(error.kind()),
        other => panic!("{other:?}"),
    };
    assert_eq!(top("mosmon"), Ok((false, None, None)));
    let (server, credentials) = (Some("n1:7470".into()), Some("creds".into()));
    assert_eq!(top("scx_mosix top --read-only --server n1:7470 --credentials creds"), Ok((true, server, credentials)));
    assert!(top("scx_mosix top --server n1:7470").is_err());
}
