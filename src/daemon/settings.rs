//! What a daemon is told at its start, from its command line and its settings file.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::Deserialize;

use crate::{
    api::name::MAX_ALLOWED_NODES,
    bounds::OutOfBounds,
    cluster::GossipConfig,
    control::Constraints,
    keys::{ClusterKey, KeyError, NodeName},
    placement, scheduler,
    ui::args::DaemonArgs,
};

/// What a daemon is told at its start.
pub struct Settings {
    /// The cluster's key; without one the daemon is alone and listens on its Unix socket only.
    pub key: Option<ClusterKey>,
    /// This node's name; by default its host name.
    pub node_name: Option<NodeName>,
    /// Where to listen, TCP and UDP.
    pub listen: SocketAddr,
    /// The address that others are told; by default found out.
    pub advertise: Option<IpAddr>,
    /// Whom to ask for admission.
    pub join: Vec<String>,
    /// The run-time directory.
    pub run_dir: PathBuf,
    /// Whether to schedule with our scheduler.
    pub sched_ext: bool,
    /// Whether to move jobs by itself.
    pub balance: bool,
    /// Placement's tunables.
    pub placement: placement::Config,
    /// Load gossip's tunables.
    pub gossip: GossipConfig,
    /// How our scheduler shares the CPUs.
    pub scheduler: scheduler::Config,
    /// What holds for jobs of a class, by its name.
    pub classes: BTreeMap<String, Constraints>,
}

impl Settings {
    /// Placement's tunables, for the scheduler that this node has.
    pub fn placement_here(&self) -> placement::Config {
        let placement = self.placement.clone();
        if self.sched_ext { placement.under(&self.scheduler) } else { placement }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The key file cannot be used.
    #[error("cannot use the cluster's key")]
    Key(#[from] KeyError),
    /// The settings file cannot be read.
    #[error("cannot read the settings in {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The settings file is not understood.
    #[error("{}: settings not understood", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A setting could not work.
    #[error("{}: settings out of bounds", .path.display())]
    Bounds {
        /// The file.
        path: PathBuf,
        /// Which.
        source: OutOfBounds,
    },
    /// A class has more nodes than a job may.
    #[error("{}: class {class} names more than {MAX_ALLOWED_NODES} nodes", .path.display())]
    ManyNodes {
        /// The file.
        path: PathBuf,
        /// The class.
        class: String,
    },
}

/// The settings file.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SettingsFile {
    placement: placement::Config,
    gossip: GossipConfig,
    scheduler: scheduler::Config,
    class: BTreeMap<String, Class>,
}

impl SettingsFile {
    fn check_bounds(&self) -> Result<(), OutOfBounds> {
        self.placement.validate()?;
        self.gossip.validate()?;
        self.scheduler.validate()
    }

    /// A class with more nodes than may be named.
    fn too_many_nodes(&self) -> Option<&String> {
        self.class.iter().find(|(_, class)| class.nodes.len() > MAX_ALLOWED_NODES).map(|(name, _)| name)
    }
}

/// What holds for the jobs that users start with `--class NAME`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Class {
    stay: bool,
    nodes: Vec<NodeName>,
}

impl From<Class> for Constraints {
    fn from(class: Class) -> Self {
        Self { stay: class.stay, allowed_nodes: class.nodes.iter().map(ToString::to_string).collect() }
    }
}

impl TryFrom<DaemonArgs> for Settings {
    type Error = SettingsError;

    fn try_from(args: DaemonArgs) -> Result<Self, SettingsError> {
        let key = args.key_file().map(|path| ClusterKey::load(&path)).transpose()?;
        let file = match &args.config {
            None => SettingsFile::default(),
            Some(path) => {
                let failed = |source| SettingsError::Read { path: path.clone(), source };
                let text = std::fs::read_to_string(path).map_err(failed)?;
                let failed = |source| SettingsError::Parse { path: path.clone(), source: Box::new(source) };
                let file: SettingsFile = toml::from_str(&text).map_err(failed)?;
                file.check_bounds().map_err(|source| SettingsError::Bounds { path: path.clone(), source })?;
                if let Some(class) = file.too_many_nodes() {
                    return Err(SettingsError::ManyNodes { path: path.clone(), class: class.clone() });
                }
                file
            }
        };
        Ok(Self {
            key,
            node_name: args.node_name,
            listen: args.listen,
            advertise: args.advertise,
            join: args.join,
            run_dir: args.run_dir.path,
            sched_ext: !args.no_sched_ext,
            balance: !args.no_balance,
            placement: file.placement,
            gossip: file.gossip,
            scheduler: file.scheduler,
            classes: file.class.into_iter().map(|(name, class)| (name, class.into())).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::AttainedService;

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
        let classes: BTreeMap<String, Constraints> =
            file.class.into_iter().map(|(n, class)| (n, class.into())).collect();
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
    fn who_makes_room_for_the_young_is_read_and_a_wrong_word_is_answered_with_the_right_ones() {
        for (word, wanted) in
            [("off", AttainedService::Off), ("jobs", AttainedService::Jobs), ("all", AttainedService::All)]
        {
            let file: SettingsFile = toml::from_str(&format!("[scheduler]\nattained_service = \"{word}\"\n")).unwrap();
            assert_eq!(file.scheduler.attained_service, wanted);
        }
        let error = toml::from_str::<SettingsFile>("[scheduler]\nattained_service = \"on\"\n").err().unwrap();
        assert!(error.to_string().contains("`off`, `jobs`, `all`"), "{error}");
    }
}
