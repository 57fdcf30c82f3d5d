//! `backwhen recover`

mod description;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::except::{ExceptReport, LeftOutTransactions};
use super::on_demand::DemandOption;
use super::rewind::Rule;
use super::verify::acknowledged;
use super::{ScratchOption, Surroundings, default_jobs, left_out, not_exact};
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::history::catalog::UnusableObject;
use crate::history::verify::{self, AcknowledgedEnd};
use crate::model::{Inexact, Moment};
use crate::past::Reading;
use crate::recover::amend::Amend;
use crate::recover::entries::foresee;
use crate::recover::execute::{Execution, RecoveryReport, execute};
use crate::recover::on_demand::{GateStatus, OnDemandReport};
use crate::recover::part::RowFilter;
use crate::recover::plan::{Plan, plan};
use crate::recover::refused::RefusedObject;
use crate::recover::sink::{Destination, SideSchema};
use crate::rewind::find_difference;

use description::{describe, describe_plan, describe_schema};

/// Rebuild the database, or some of its tables or rows, as of a moment
#[derive(Args, Clone)]
#[command(after_help = "Example: backwhen recover --to '10 minutes ago' --create --into dbname=rescued\n\
                        One customer's orders, with all that they refer to:\n\
                        backwhen recover --to xid:4711 --before --table orders --where 'customer_id = 42' --with-references \
                        --create --into dbname=rescued\n\
                        Beside the live orders, in a schema of their own:\n\
                        backwhen recover --to xid:4711 --before --table orders --into dbname=shop --into-schema restored\n\
                        The database as it would be without two transactions:\n\
                        backwhen recover --to latest --except xid:4711,4715 --create --into dbname=without\n\
                        Open at once, orders next, all else while it is already in use:\n\
                        backwhen recover --to latest --on-demand --first orders --create --into dbname=rescued")]
pub struct Recover {
    /// The moment: a time with zone, '10 minutes ago', an LSN, xid:N, mark:NAME, checkpoint:ID or latest
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true, required_unless_present = "resume")]
    to: Option<String>,
    /// Where to: a connection string to an empty database, sqlite:FILE, sql:FILE, or sql:- for standard output. Other
    /// users of this machine can see the arguments of a process, so keep a password in ~/.pgpass
    #[arg(
        long,
        value_name = "TARGET",
        env = "BACKWHEN_INTO",
        required_unless_present = "dry_run",
        hide_env_values = true
    )]
    into: Option<String>,
    /// Create the database first
    #[arg(long)]
    create: bool,
    /// Create the roles that the target's server lacks, without passwords
    #[arg(long)]
    create_roles: bool,
    #[command(flatten)]
    scratch: ScratchOption,
    /// Recover nothing if the target refuses one object; otherwise the object is left out and named
    #[arg(long)]
    strict: bool,
    /// Recover the schema only, without rows
    #[arg(long)]
    schema_only: bool,
    /// With xid: or mark:, recover the instant just before it
    #[arg(long)]
    before: bool,
    /// Recover only tables that match (schema.table, with * and ?; a partitioned table stands for its partitions); may be given more than once
    #[arg(long, value_name = "PATTERN")]
    table: Vec<String>,
    /// Recover only the rows that meet a condition in SQL, such as 'tenant_id = 42'; the target's server judges them
    #[arg(long = "where", value_name = "CONDITION", conflicts_with = "schema_only")]
    condition: Option<String>,
    /// Recover the rows, too, to which the wanted ones refer by foreign keys, and those to which these refer
    #[arg(long, conflicts_with = "schema_only")]
    with_references: bool,
    /// Put the tables into this new schema of an existing database, beside its own tables; nothing outside of the schema is
    /// touched
    #[arg(long, value_name = "SCHEMA", conflicts_with_all = ["create", "create_roles", "schema_only"])]
    into_schema: Option<String>,
    /// Leave out these transactions (xid:N, or xid:N,N,...) and keep all later ones
    #[arg(long, value_name = "XIDS", conflicts_with = "schema_only")]
    except: Option<String>,
    /// With --except, what to do if later transactions built on these: recover nothing, leave such rows as they are, or leave
    /// out the later transactions, too
    #[arg(long, env = "BACKWHEN_CONFLICTS", value_enum, default_value = "refuse")]
    conflicts: Rule,
    #[command(flatten)]
    demand: DemandOption,
    /// Keep a copy of the database on the target's server, and have later recoveries with this option begin with the copy and
    /// change only the rows that differ; needs --create
    #[arg(long, conflicts_with_all = ["table", "condition", "with_references", "into_schema", "except", "schema_only"])]
    keep_template: bool,
    /// How many tables are loaded, and indexes built, at the same time
    #[arg(long, env = "BACKWHEN_JOBS", value_name = "N", default_value_t = default_jobs())]
    jobs: usize,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct DryRunReport<'a> {
    dry_run: bool,
    #[serde(flatten)]
    plan: &'a Plan,
    into_schema: Option<&'a String>,
    /// The changes that --except makes, as far as they are known before the constraints are there.
    except: Option<ExceptReport>,
    /// The objects that the target will refuse, as far as its catalogs tell.
    left_out: Vec<RefusedObject>,
}

#[derive(Serialize)]
struct Recovered {
    #[serde(flatten)]
    report: RecoveryReport,
    /// The file with the SQL of what was left out, if something was.
    left_out_file: Option<String>,
    into_schema: Option<String>,
    except: Option<ExceptReport>,
    /// The tables that stood behind gates, with --on-demand.
    #[serde(skip_serializing_if = "Option::is_none")]
    gates: Option<Vec<GateStatus>>,
}

impl Recover {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        let history = at.history()?;
        let destination = self.into.as_deref().map(Destination::parse).transpose()?;
        if self.demand.resume {
            return self.resume(at, &history, destination).await;
        }
        let to = self.to.as_deref().unwrap_or_default();
        let moment = Moment::parse(to, ambient::now()).context(Kind::Usage, || "--to".into())?;
        self.check(destination.as_ref())?;
        let acknowledged = acknowledged(history.local());
        let reading = Reading::open(&history)?;
        if moment == Moment::Latest {
            refuse_a_lost_end(&reading, acknowledged)?;
        }
        let mut plan = self.plan(&reading, &moment)?;
        let Some(destination) = destination.clone().filter(|_| !self.dry_run) else {
            let left_out = match (&self.into_schema, &destination) {
                (Some(schema), Some(Destination::Postgres(live))) => {
                    SideSchema::new(live, schema).require_free().await?;
                    foresee_all(at, &mut plan, None).await
                }
                _ => foresee_all(at, &mut plan, destination.as_ref()).await,
            };
            let except = self.left_out_transactions(&plan).await?.map(|it| it.foresee()).transpose()?;
            let into_schema = self.into_schema.as_ref();
            let planned = DryRunReport { dry_run: true, plan: &plan, into_schema, except, left_out };
            let inexact: Vec<_> =
                plan.inexact.iter().map(|it| not_exact::line(plan.inexact.is_certain(it), it)).collect();
            not_exact::say(at, &inexact, None);
            let text = || {
                let schema = describe_schema(planned.into_schema);
                let except = planned.except.as_ref().map_or_else(String::new, ExceptReport::describe);
                describe_plan(&plan) + &schema + &except + &left_out::describe(&planned.left_out)
            };
            at.ui.result(&planned, text)?;
            return Ok(ExitCode::SUCCESS);
        };
        // Everything that starts from here on is undone if the command is interrupted.
        at.heed_signals();
        let (report, except, gates) = if self.demand.on_demand {
            let done = self.begin(at, plan, destination.clone()).await?;
            (done.report, None, Some(done.gates))
        } else {
            let (report, except) = self.attempt(at, &moment, plan, destination.clone()).await?;
            (report, except, None)
        };
        let left_out_file = write_left_out(at, &destination, &report);
        let into_schema = self.into_schema.clone();
        let recovered = Recovered { report, left_out_file, into_schema, except, gates };
        self.conclude(at, &history, &destination, &recovered)
    }

    async fn resume(
        self,
        at: &Surroundings,
        history: &History,
        destination: Option<Destination>,
    ) -> Result<ExitCode> {
        let Some(Destination::Postgres(target)) = destination else {
            return Err(Error::usage("--resume needs the database of --on-demand, as in --into dbname=NAME"));
        };
        let OnDemandReport { report, gates } = self.demand.resume(at, history, &target, self.jobs).await?;
        let destination = Destination::Postgres(target);
        let left_out_file = write_left_out(at, &destination, &report);
        let gates = Some(gates);
        let recovered = Recovered { report, left_out_file, into_schema: None, except: None, gates };
        self.conclude(at, history, &destination, &recovered)
    }

    /// Says what a recovery that is done has brought back, and what not.
    fn conclude(
        &self,
        at: &Surroundings,
        history: &History,
        destination: &Destination,
        recovered: &Recovered,
    ) -> Result<ExitCode> {
        let report = &recovered.report;
        say_inexact(at, history, destination, report);
        for note in &report.notes {
            at.ui.say(&format!("note: {note}"));
        }
        if self.into.as_deref() == Some("sql:-") {
            // The rows are the result; the report of the recovery goes to standard error.
            at.ui.result_beside(recovered, || describe(recovered))?;
        } else {
            at.ui.result(recovered, || describe(recovered))?;
        }
        let complete = report.left_out.is_empty();
        Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(Kind::Incomplete.exit_code()) })
    }

    fn execution(
        &self,
        at: &Surroundings,
        destination: Destination,
        amend: Option<Arc<dyn Amend>>,
    ) -> Result<Execution> {
        Ok(Execution {
            tools: at.tools()?,
            destination,
            scratch: self.scratch.conninfo()?,
            replay_limit: self.scratch.limit(),
            create: self.create,
            into_schema: self.into_schema.clone(),
            amend,
            template: self.keep_template.then(find_difference),
            reads_all_back: false,
            create_roles: self.create_roles,
            schema_only: self.schema_only,
            strict: self.strict,
            jobs: self.jobs,
            progress: at.ui.progress(),
            interrupt: at.heed_signals(),
        })
    }

    async fn begin(&self, at: &Surroundings, plan: Plan, destination: Destination) -> Result<OnDemandReport> {
        self.demand.begin(at, plan, self.execution(at, destination, None)?).await
    }
}

impl Recover {
    fn plan(&self, reading: &Reading, moment: &Moment) -> Result<Plan> {
        // A schema has room for tables, not for what belongs to a whole database.
        let all = ["*".to_owned()];
        let is_all = self.table.is_empty() && self.into_schema.is_some();
        let mut plan = plan(reading, moment, self.before, if is_all { &all } else { &self.table })?;
        plan.filter = (self.condition.is_some() || self.with_references).then(|| RowFilter {
            condition: self.condition.clone(),
            with_references: self.with_references,
            referenced: Vec::new(),
        });
        Ok(plan)
    }

    /// Refuses options that cannot go together.
    fn check(&self, destination: Option<&Destination>) -> Result<()> {
        if self.with_references && self.table.is_empty() && self.condition.is_none() {
            return Err(Error::usage(
                "--with-references has nothing to add to the whole database; name what is wanted with --table or --where",
            ));
        }
        let is_part = self.condition.is_some() || self.with_references || self.except.is_some();
        match destination {
            Some(Destination::Sqlite(_) | Destination::Sql(_)) if is_part => Err(Error::usage(
                "only a PostgreSQL server can judge rows for --where, --with-references and --except; recover into a database, \
                 with --create --into dbname=NAME",
            )),
            Some(Destination::Sqlite(_) | Destination::Sql(_)) if self.into_schema.is_some() => Err(
                Error::usage("--into-schema needs an existing PostgreSQL database, as in --into dbname=NAME"),
            ),
            _ => Ok(()),
        }
    }

    async fn left_out_transactions(&self, plan: &Plan) -> Result<Option<LeftOutTransactions>> {
        let Some(list) = self.except.clone() else { return Ok(None) };
        let (plan, rule) = (plan.clone(), self.conflicts.into());
        let reading = move || LeftOutTransactions::read(&plan, &list, rule);
        ambient::blocking("following the journal", reading).await.map(Some)
    }

    /// Executes the plan. If its checkpoint turns out to be damaged, executes another plan for the same moment: a
    /// failed attempt leaves nothing behind.
    async fn attempt(
        &self,
        at: &Surroundings,
        moment: &Moment,
        mut plan: Plan,
        destination: Destination,
    ) -> Result<(RecoveryReport, Option<ExceptReport>)> {
        let to_stdout = matches!(destination, Destination::Sql(None));
        loop {
            let except = self.left_out_transactions(&plan).await?.map(Arc::new);
            except.as_ref().map_or(Ok(()), |it| it.require_free())?;
            let amend = except.clone().map(|it| it as Arc<dyn Amend>);
            let execution = self.execution(at, destination.clone(), amend)?;
            let error = match execute(plan.clone(), execution).await {
                Ok(report) => return Ok((report, except.and_then(|it| it.report()))),
                // Output that is already on standard output cannot be withdrawn.
                Err(error) if error.kind() != Kind::Damaged || to_stdout => return Err(error),
                Err(error) => error,
            };
            let Some(next) = replan_from_whole_checkpoint(plan, |reading| self.plan(reading, moment))? else {
                return Err(error);
            };
            at.ui.say(&format!("{error}; starting again from checkpoint {}", next.checkpoint));
            plan = next;
        }
    }
}

/// A plan needs no target: one that cannot be asked is no failure.
async fn foresee_all(
    at: &Surroundings,
    plan: &mut Plan,
    destination: Option<&Destination>,
) -> Vec<RefusedObject> {
    foresee(plan, destination).await.unwrap_or_else(|error| {
        at.ui.say(&format!("what the target will refuse is not known: {error}"));
        Vec::new()
    })
}

/// If the file cannot be written, the command says so: the result holds the SQL too.
fn write_left_out(at: &Surroundings, destination: &Destination, report: &RecoveryReport) -> Option<String> {
    let Destination::Postgres(info) = destination else { return None };
    if report.left_out.is_empty() {
        return None;
    }
    match left_out::write(info.dbname(), &report.left_out) {
        Ok(path) => Some(path.display().to_string()),
        Err(error) => {
            at.ui.say(&format!(
                "the SQL of what was left out is only in the result of --output json: {error}"
            ));
            None
        }
    }
}

/// Refuses `latest` if the end of the journal is lost. A journal whose end was cut off looks as if it had never had
/// that end, and `latest` would silently mean an earlier moment. `acknowledged` must be read before the timeline, which
/// then cannot be the older of the two.
pub(super) fn refuse_a_lost_end(reading: &Reading, acknowledged: Option<AcknowledgedEnd>) -> Result<()> {
    let stretch = reading.timeline().current()?;
    let durable = acknowledged.filter(|it| it.epoch == stretch.epoch.number).map(|it| it.durable);
    let (Some(durable), frontier) = (durable, stretch.frontier()) else { return Ok(()) };
    if frontier >= durable {
        return Ok(());
    }
    let last = stretch.segments.last().map(|segment| reading.history().journal().locate(segment.name));
    Err(Error::damaged(format!(
        "{} ends at {frontier}, but everything up to {durable} had been durable; heal it with `backwhen repair`, \
         or recover what is there with: --to {frontier}",
        last.unwrap_or_else(|| "the journal".to_owned())
    )))
}

/// Says what the recovered database does not have as the source had it. The result names what was left out.
fn say_inexact(at: &Surroundings, history: &History, destination: &Destination, report: &RecoveryReport) {
    let is_left_out = |it: &Inexact| report.left_out.iter().any(|object| object.is_named_by(it));
    let inexact = report.inexact.iter().filter(|it| !is_left_out(it));
    let lines: Vec<_> = inexact.map(|it| not_exact::line(true, it)).collect();
    let database = match destination {
        Destination::Postgres(target) => target.dbname(),
        _ => &history.identity().source.database,
    };
    not_exact::say(at, &lines, Some(database));
}

/// Returns the next plan whose checkpoint is whole, if the failed plan's checkpoint image was damaged.
fn replan_from_whole_checkpoint(
    failed: Plan,
    wanted: impl Fn(&Reading) -> Result<Plan>,
) -> Result<Option<Plan>> {
    let mut plan = failed;
    let mut first = true;
    loop {
        let (past, name) = (&plan.past, plan.checkpoint.clone());
        let reading = match verify::image_fault(past.history(), past.base())? {
            Some(why) => past.reading().without(UnusableObject { name, why }),
            // If the journal is damaged, any other checkpoint needs at least as much of it.
            None if first => return Ok(None),
            None => return Ok(Some(plan)),
        };
        first = false;
        match wanted(&reading) {
            Ok(next) => plan = next,
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::OutsideWindow) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
