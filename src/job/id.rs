//! The name of a job.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Names a job in the whole cluster. Its text is `NODE/PID`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId {
    /// The node where it was started.
    pub home: Arc<str>,
    /// Its root process's pid there.
    pub pid: i32,
}

/// A text that names no job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job is named NODE/PID, as `ps` shows its home and its pid")]
pub struct NoJobId;

impl JobId {
    /// The job that was started at `home` and whose root process is `pid` there.
    #[must_use]
    pub fn new(home: &str, pid: i32) -> Self {
        Self { home: home.into(), pid }
    }

    /// Whether its home is `node`.
    #[must_use]
    pub fn is_of(&self, node: &str) -> bool {
        *self.home == *node
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.home, self.pid)
    }
}

impl FromStr for JobId {
    type Err = NoJobId;

    fn from_str(text: &str) -> Result<Self, NoJobId> {
        let (home, pid) = text.split_once('/').ok_or(NoJobId)?;
        let pid = pid.parse().ok().filter(|pid| *pid > 0 && !home.is_empty()).ok_or(NoJobId)?;
        Ok(Self::new(home, pid))
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_survives_text() {
        let id = JobId::new("n1", 4711);
        assert_eq!((id.to_string().as_str(), "n1/4711".parse()), ("n1/4711", Ok(id.clone())));
        assert_eq!(serde_json::from_str::<JobId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for bad in ["", "4711", "/4711", "n1/", "n1/0", "n1/-4", "n1/x"] {
            assert_eq!(bad.parse::<JobId>(), Err(NoJobId), "{bad}");
        }
    }
}
