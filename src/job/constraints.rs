//! What users let placement do with their jobs.

use serde::{Deserialize, Serialize};

/// What the user of a job lets placement do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraints {
    /// It stays where it is: it moves by hand only.
    #[serde(default)]
    pub stay: bool,
    /// The only nodes beside home where it may run; empty for any.
    #[serde(default)]
    pub allowed_nodes: Vec<String>,
}

impl Constraints {
    /// Whether a job of `home` may not run at `node`.
    #[must_use]
    pub fn forbid(&self, node: &str, home: &str) -> bool {
        let is_named = || self.allowed_nodes.iter().any(|name| name == node);
        node != home && !self.allowed_nodes.is_empty() && !is_named()
    }

    /// As tight as both.
    #[must_use]
    pub fn and(self, other: &Self, home: &str) -> Self {
        let stay = self.stay || other.stay;
        if self.allowed_nodes.is_empty() || other.allowed_nodes.is_empty() {
            let allowed_nodes =
                if self.allowed_nodes.is_empty() { other.allowed_nodes.clone() } else { self.allowed_nodes };
            return Self { stay, allowed_nodes };
        }
        let mut allowed_nodes = self.allowed_nodes;
        allowed_nodes.retain(|node| other.allowed_nodes.contains(node));
        if allowed_nodes.is_empty() {
            // Nowhere else; nothing would mean anywhere.
            allowed_nodes.push(home.to_owned());
        }
        Self { stay, allowed_nodes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_only_tightened() {
        let of =
            |stay, nodes: &[&str]| Constraints { stay, allowed_nodes: nodes.iter().map(|n| (*n).into()).collect() };
        assert_eq!(of(false, &[]).and(&of(true, &["n2"]), "n1"), of(true, &["n2"]));
        assert_eq!(of(true, &["n3", "n2"]).and(&of(false, &["n2", "n4"]), "n1"), of(true, &["n2"]));
        assert_eq!(of(false, &["n3"]).and(&of(false, &["n2"]), "n1"), of(false, &["n1"]), "home only");
    }

    #[test]
    fn home_is_never_forbidden_and_any_node_if_none_is_named() {
        let named = Constraints { stay: false, allowed_nodes: vec!["n2".into()] };
        assert!(named.forbid("n3", "n1") && !named.forbid("n2", "n1") && !named.forbid("n1", "n1"));
        assert!(!Constraints::default().forbid("n3", "n1"));
    }
}
