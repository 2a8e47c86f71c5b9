//! RabbitMQ and PostgreSQL of a test's own, for tests that kill them: an instance of `scripts/services`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use uuid::Uuid;

/// Ends, and its folder with it, when it is dropped.
pub struct Servers {
    folder: PathBuf,
    addresses: HashMap<String, String>,
}

impl Servers {
    pub async fn start() -> Self {
        Self::start_only(&["start"]).await
    }

    pub async fn start_rabbitmq() -> Self {
        Self::start_only(&["start", "rabbitmq"]).await
    }

    pub async fn start_postgres() -> Self {
        Self::start_only(&["start", "postgres"]).await
    }

    async fn start_only(arguments: &[&str]) -> Self {
        // Not a private folder: PostgreSQL may run as another user than the test.
        let folder = std::env::temp_dir().join(format!("mapx-test-servers-{}", Uuid::new_v4().simple()));
        let mut servers = Self { folder, addresses: HashMap::new() };
        servers.run(arguments).await;
        let env = servers.run(&["env"]).await;
        let pairs = env.lines().filter_map(|line| line.split_once('='));
        servers.addresses =
            pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect();
        servers
    }

    /// The address under this name in the `env` of the script.
    pub fn address(&self, name: &str) -> &str {
        self.addresses.get(name).unwrap_or_else(|| panic!("{name} is not in {:?}", self.addresses))
    }

    /// Runs a command of the script and returns what it prints.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("scripts/services runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "scripts/services {arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// From now on PostgreSQL asks this role for its password.
    pub async fn ask_for_passwords(&self, role: &str) {
        let rules = self.folder.join("postgres/data/pg_hba.conf");
        let trusted = std::fs::read_to_string(&rules).expect("the rules");
        let asked = format!("host all {role} 127.0.0.1/32 scram-sha-256\n{trusted}");
        std::fs::write(&rules, asked).expect("the rules are written");
        self.run(&["psql", "-qc", "SELECT pg_reload_conf()"]).await;
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"));
        command.args(arguments).env("MAPX_SERVICES_DIR", &self.folder);
        command
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.command(&["stop"]).output();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
