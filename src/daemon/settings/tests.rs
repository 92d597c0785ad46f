use clap::Parser;
use serde_json::Value;

use super::*;
use crate::{scheduler::AttainedService, ui::args::Cli};

#[test]
fn a_misspelt_setting_is_an_error_that_names_it() {
    let error = toml::from_str::<SettingsFile>("[placement]\nhysterisis_percent = 120\n").err().unwrap();
    assert!(error.to_string().contains("hysterisis_percent"), "{error}");
    let file: SettingsFile = toml::from_str("[placement]\nleast_gain_percent = 12\n").unwrap();
    assert_eq!(file.placement.least_gain_percent, 12);
    assert_eq!(file.placement.lease_ms, placement::Config::default().lease_ms);
    assert_eq!(file.gossip, GossipConfig::default());
    let file: SettingsFile = toml::from_str("[gossip]\nwindow = 64\nexpected_age_ms = 20000\n").unwrap();
    assert_eq!((file.gossip.window, file.gossip.expected_age_ms), (64, Some(20_000)));
    assert_eq!(file.scheduler.attained_service, AttainedService::Jobs);
}

#[test]
fn every_section_has_bounds() {
    let error = |text: &str| {
        let file: SettingsFile = toml::from_str(text).unwrap();
        file.check_bounds().err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(error(""), "");
    assert!(error("[placement]\nlease_ms = 1\n").starts_with("placement: lease_ms is 1; set it between"));
    assert!(error("[placement.learning]\nagents = 0\n").starts_with("placement.learning: agents is 0;"));
    assert!(error("[gossip]\nwindow = 0\n").starts_with("gossip: window is 0;"));
    assert!(error("[scheduler]\nguest_share_percent = 0\n").starts_with("scheduler: guest_share_percent is 0;"));
}

#[test]
fn what_guests_get_is_said_once() {
    let error = toml::from_str::<SettingsFile>("[placement]\nguest_share_percent = 9\n").err().unwrap();
    assert!(error.to_string().contains("guest_share_percent"), "{error}");
    let file: SettingsFile = toml::from_str("[scheduler]\nguest_share_percent = 9\n").unwrap();
    let placement = file.placement.under(&file.scheduler);
    assert_eq!((placement.guest_share_percent, placement.young_ms), (9, 4_000));
    let file: SettingsFile = toml::from_str("[scheduler]\nattained_service = \"off\"\n").unwrap();
    assert_eq!(file.placement.clone().under(&file.scheduler), file.placement);
}

#[test]
fn classes_are_read() {
    let file: SettingsFile =
        toml::from_str("[class.render]\nnodes = [\"n2\", \"N3\"]\n[class.desk]\nstay = true\n").unwrap();
    let classes: BTreeMap<String, Constraints> = file.class.into_iter().map(|(n, class)| (n, class.into())).collect();
    assert_eq!(classes["render"], Constraints { stay: false, allowed_nodes: vec!["n2".into(), "n3".into()] });
    assert!(classes["desk"].stay);
    let nodes: Vec<String> = (0..=MAX_ALLOWED_NODES).map(|number| format!("\"n{number}\"")).collect();
    let file = |nodes: &[String]| -> SettingsFile {
        toml::from_str(&format!("[class.many]\nnodes = [{}]\n", nodes.join(","))).unwrap()
    };
    assert_eq!(file(&nodes).too_many_nodes().map(String::as_str), Some("many"));
    assert_eq!(file(&nodes[1..]).too_many_nodes(), None);
    for bad in ["[class.a]\nnodes = [\"a b\"]\n", "[class.a]\nnode = [\"n2\"]\n"] {
        assert!(toml::from_str::<SettingsFile>(bad).is_err(), "{bad}");
    }
}

#[test]
fn make_room_is_parsed_and_an_error_lists_the_allowed_words() {
    for (word, wanted) in
        [("off", AttainedService::Off), ("jobs", AttainedService::Jobs), ("all", AttainedService::All)]
    {
        let file: SettingsFile = toml::from_str(&format!("[scheduler]\nattained_service = \"{word}\"\n")).unwrap();
        assert_eq!(file.scheduler.attained_service, wanted);
    }
    let error = toml::from_str::<SettingsFile>("[scheduler]\nattained_service = \"on\"\n").err().unwrap();
    assert!(error.to_string().contains("`off`, `jobs`, `all`"), "{error}");
}

/// The file that packages install.
const PACKAGED: &str = include_str!("../../../packaging/config.toml");

/// What the packaged file says when each setting that is commented out is not: a comment that is
/// one line of `key = value` or `[section]`.
fn uncommented() -> String {
    let is_setting = |text: &str| {
        let key = text.split(" = ").next().unwrap_or_default();
        text.starts_with('[') || (text.contains(" = ") && !key.contains(' '))
    };
    let line = |line: &'static str| line.strip_prefix("# ").filter(|text| is_setting(text)).unwrap_or(line);
    PACKAGED.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_packaged_file_sets_nothing() {
    let file: SettingsFile = toml::from_str(PACKAGED).unwrap();
    let value = |file: &SettingsFile| serde_json::to_value(file).unwrap();
    assert_eq!(value(&file), value(&SettingsFile::default()));
}

#[test]
fn the_packaged_file_shows_every_setting_with_its_default() {
    let shown: SettingsFile = toml::from_str(&uncommented()).unwrap();
    shown.check_bounds().unwrap();
    let text = uncommented();
    let (shown, defaults) = (serde_json::to_value(shown).unwrap(), serde_json::to_value(SettingsFile::default()));
    compare("", &shown, &defaults.unwrap(), &text);
}

/// Settings without a default are examples in the file; classes have names of their own.
fn compare(path: &str, shown: &Value, default: &Value, text: &str) {
    match default {
        Value::Object(fields) if path != "/class" => {
            for (name, default) in fields {
                assert!(
                    text.contains(&format!("\n{name} = ")) || shown[name].is_object(),
                    "{path}/{name} is not in it"
                );
                compare(&format!("{path}/{name}"), &shown[name], default, text);
            }
        }
        Value::Null => assert!(!shown.is_null(), "{path} has no example"),
        Value::Object(_) => assert!(shown.as_object().is_some_and(|classes| !classes.is_empty())),
        default => assert_eq!(shown, default, "{path}"),
    }
}

#[test]
fn the_command_line_comes_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let text =
        "[daemon]\nnode_name = \"n7\"\nlisten = \"127.0.0.1:1\"\njoin = [\"a\", \"b\"]\ncpus = 2\nbalance = false\n";
    std::fs::write(&path, text).unwrap();
    let settings = |args: &[&str]| {
        let args = ["scx_mosix", "--config", path.to_str().unwrap()].into_iter().chain(args.iter().copied());
        Settings::try_from(Cli::parse_from(args).daemon).unwrap()
    };
    let by_file = settings(&[]);
    assert_eq!(by_file.node_name.unwrap().as_str(), "n7");
    assert_eq!((by_file.listen.port(), by_file.join.len(), by_file.balance, by_file.sched_ext), (1, 2, false, true));
    assert_eq!(by_file.limits.cpus.unwrap().milli(), 2_000);
    let by_line = settings(&["--node-name", "n8", "--listen", "127.0.0.1:2", "--join", "c", "--cpus", "0.6"]);
    assert_eq!(by_line.node_name.unwrap().as_str(), "n8");
    assert_eq!((by_line.listen.port(), by_line.join), (2, vec!["c".to_owned()]));
    assert_eq!(by_line.limits.cpus.unwrap().milli(), 600);
}

#[test]
fn a_setting_of_the_daemon_is_checked_as_an_option_is() {
    let error = |text: &str| match toml::from_str::<SettingsFile>(text) {
        Ok(file) => file.check_bounds().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(error("[daemon]\ncpus = 0\n").contains("it must be a number of CPUs"));
    assert!(error("[daemon]\nmemory_mib = 1\n").starts_with("daemon: memory_mib is 1;"));
    assert!(error("[daemon]\nlisten = \"7470\"\n").contains("socket address"));
    assert!(error("[daemon]\nnode_name = \"a b\"\n").contains("node_name"));
}
