//! `backwhen serve`

use std::net::SocketAddr;

use clap::Args;
use futures_util::future::try_join_all;
use serde::Serialize;

use super::past::{self, PastOption};
use super::query::database_name;
use super::{Surroundings, ui};
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::recover::gate::GateEvent;
use crate::recover::past_server::{PastDatabase, PastServer};
use crate::recover::plan::{Plan, PlannedMoment};
use crate::serve::{Address, ForeignPast, Listener, SOCKET_PORT, foreign_tables};

/// The foreign tables of the live database reach the past over TCP.
const LOOPBACK: &str = "127.0.0.1:0";

/// Open the past as a PostgreSQL server, until Ctrl-C
///
/// A short-lived server of backwhen's own gets the structure of the moment. Any client can connect to it, and the rows of a
/// table are loaded when a client touches the table. Changes are thrown away with the server.
#[derive(Args, Clone)]
#[command(after_help = "Example: backwhen serve --at '1 hour ago'\n\
                        With several --at, each moment is a database.")]
pub struct Serve {
    #[command(flatten)]
    past: PastOption,
    /// Listen at this address; clients then need the password that is printed, and nothing is encrypted [default: a socket
    /// that only this user can reach]
    #[arg(long, env = "BACKWHEN_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Let clients change nothing
    #[arg(long)]
    read_only: bool,
    /// Print the statements that make the past's tables foreign tables of the live database
    #[arg(long)]
    fdw: bool,
}

#[derive(Serialize)]
struct ServeReport {
    /// The connection string of the first moment.
    connection: String,
    moments: Vec<ServedMoment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fdw: Option<String>,
}

#[derive(Serialize)]
struct ServedMoment {
    #[serde(flatten)]
    moment: PlannedMoment,
    database: String,
    connection: String,
}

impl Serve {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let plans = self.past.plans(at)?;
        let address = self.listen.as_deref().or(self.fdw.then_some(LOOPBACK));
        let password = address.map(|_| password()).transpose()?;
        let settings = self.past.settings(at, Vec::new(), self.read_only, password.clone())?;
        let server = PastServer::start(&plans, settings).await?;
        let served = self.serve(at, &server, &plans, (address, password)).await;
        server.stop().await;
        match served {
            Err(error) if error.kind() == Kind::Interrupted && at.heed_signals().is_cancelled() => {
                at.ui.say("stopped; nothing of the past is left");
                Ok(())
            }
            served => served,
        }
    }

    async fn serve(
        &self,
        at: &Surroundings,
        server: &PastServer,
        plans: &[Plan],
        (address, password): (Option<&str>, Option<String>),
    ) -> Result<()> {
        let mut databases = Vec::new();
        let names: Vec<_> = (0..plans.len()).map(|number| name(plans, number)).collect();
        for (plan, name) in plans.iter().zip(&names) {
            databases.push(server.add(std::slice::from_ref(plan), name, &at.ui.progress()).await?);
        }
        databases.iter().for_each(|database| past::say(at, database));
        let listener = Listener::open(address, server.socket(), server.client()).await?;
        let access = Access { address: listener.address()?, user: server.client(), password };
        let report = self.report(plans, &names, &access);
        at.ui.result(&report, || describe(&report))?;
        let interrupt = at.heed_signals();
        let tell = |event| past::say_event(at, &event);
        tokio::select! {
            watched = watch(&mut databases, &tell) => watched,
            listened = listener.run() => listened,
            () = interrupt.cancelled() => Err(Error::interrupted()),
        }
    }

    fn report(&self, plans: &[Plan], names: &[String], access: &Access<'_>) -> ServeReport {
        let served = |(plan, name): (&Plan, &String)| ServedMoment {
            moment: plan.moment.clone(),
            database: name.clone(),
            connection: access.connection(name),
        };
        let moments: Vec<_> = plans.iter().zip(names).map(served).collect();
        ServeReport {
            connection: access.connection(&names[0]),
            moments,
            fdw: self.fdw.then(|| access.foreign_tables(plans, names)),
        }
    }
}

/// How clients reach the server.
struct Access<'a> {
    address: Address,
    user: &'a str,
    password: Option<String>,
}

impl Access<'_> {
    fn connection(&self, database: &str) -> String {
        let place = match &self.address {
            Address::Tcp(address) => format!("host={} port={}", reachable(address), address.port()),
            Address::Socket(folder) => {
                format!("host={} port={SOCKET_PORT}", word(&folder.display().to_string()))
            }
        };
        let password = self.password.as_ref().map_or_else(String::new, |it| format!(" password={it}"));
        format!("{place} user={}{password} dbname={}", self.user, word(database))
    }

    fn foreign_tables(&self, plans: &[Plan], names: &[String]) -> String {
        let Address::Tcp(address) = self.address else { return String::new() };
        let script = |(number, (plan, database)): (usize, (&Plan, &String))| {
            let name = if plans.len() > 1 { format!("past_at{}", number + 1) } else { "past".to_owned() };
            foreign_tables(&ForeignPast {
                address,
                database,
                user: self.user,
                password: self.password.as_deref().unwrap_or_default(),
                name: &name,
                tables: &plan.chosen.tables,
            })
        };
        plans.iter().zip(names).enumerate().map(script).collect()
    }
}

/// Watches the gates of all databases.
async fn watch(databases: &mut [PastDatabase], tell: &(dyn Fn(GateEvent) + Send + Sync)) -> Result<()> {
    try_join_all(databases.iter_mut().map(|database| database.gates.watch(tell))).await.map(drop)
}

/// An address that listens everywhere is reached here, too.
fn reachable(address: &SocketAddr) -> String {
    if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() }
}

/// A value of a connection string.
fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn name(plans: &[Plan], number: usize) -> String {
    let name = database_name(&plans[number]);
    if plans.len() > 1 { format!("{name}_at{}", number + 1) } else { name }
}

fn password() -> Result<String> {
    Ok(ambient::random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn describe(report: &ServeReport) -> String {
    let mut text = String::new();
    for it in &report.moments {
        let xid = it.moment.xid.map_or_else(String::new, |xid| format!("  xid {xid}"));
        let moment = format!("{}  {}{xid}", ui::both_times(it.moment.time), it.moment.lsn);
        text += &format!("moment      {moment}\nconnect     psql {}\n", ui::shell_word(&it.connection));
    }
    if let Some(fdw) = &report.fdw {
        text += &format!("\n{fdw}");
    }
    text + "\nCtrl-C ends the server"
}
