//! Confines programs: limits the parts of this machine that a server of our own, and every program that it starts,
//! can reach.
//!
//! Landlock and seccomp restrict a thread and the programs that the thread starts. So the programs are started from a
//! thread of their own, which is restricted first and ends afterwards.

use std::path::{Path, PathBuf};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{Context, Kind, Result};

/// The folders of programs and of the files that programs need, besides PostgreSQL's own folders.
#[cfg(target_os = "linux")]
const READABLE: &[&str] = &[
    "/usr",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
];

/// The folders that the programs may reach.
#[derive(Clone, Debug)]
pub(super) struct Confinement {
    /// The folder that the programs may write.
    pub folder: PathBuf,
    /// The folder of PostgreSQL's programs.
    pub programs: PathBuf,
}

/// Runs `work` on a confined thread; each program that `work` starts is confined too. Returns the parts of this
/// machine that the programs can still reach, in words.
///
/// # Errors
/// Fails with `Internal` if no thread can be started.
pub(super) async fn confined<T: Send + 'static>(
    confines: Confinement,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<(T, Vec<&'static str>)> {
    let runtime = Handle::current();
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("confined".into()).spawn(move || {
        let open = restrict(&confines);
        let _ = tell.send((runtime.block_on(work), open));
    });
    thread.context(Kind::Internal, || "cannot start a thread".into())?;
    told.await.context(Kind::Internal, || "a thread failed".into())
}

/// Restricts this thread as far as the system allows; returns the parts that stay open.
fn restrict(confines: &Confinement) -> Vec<&'static str> {
    let mut open = Vec::new();
    if !close_files(confines) {
        open.push("files that its user may read or write (no Landlock)");
    }
    if !close_calls() {
        open.push("the network and other servers' sockets (no seccomp)");
    }
    open
}

/// Allows reading only the programs and writing only the folder, and forbids signals to processes outside.
#[cfg(target_os = "linux")]
fn close_files(confines: &Confinement) -> bool {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
        RulesetStatus, Scope, path_beneath_rules,
    };
    // A kernel leaves open the parts of this that it does not support.
    let abi = ABI::V6;
    let readable = READABLE.iter().map(Path::new).chain([installation(&confines.programs)]);
    let parent = confines.folder.parent();
    let attempt = || -> Result<RulesetStatus, RulesetError> {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(readable, AccessFs::from_read(abi)))?
            .add_rules(path_beneath_rules([&confines.folder], AccessFs::from_all(abi)))?
            .add_rules(path_beneath_rules(["/dev/null"], AccessFs::from_all(abi)))?
            // This right lets the programs remove the folder itself.
            .add_rules(path_beneath_rules(parent, AccessFs::RemoveDir))?;
        Ok(ruleset.restrict_self()?.ruleset)
    };
    attempt().is_ok_and(|status| status != RulesetStatus::NotEnforced)
}

/// Returns the folder that holds `bin`, `lib` and `share`, unless `bin` is the system's own.
#[cfg(target_os = "linux")]
fn installation(programs: &Path) -> &Path {
    programs.parent().filter(|folder| folder.parent().is_some()).unwrap_or(programs)
}

/// System calls that a server does not need: they reach other machines, servers and processes, or rarely used parts
/// of the kernel.
#[cfg(target_os = "linux")]
const FORBIDDEN: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

#[cfg(target_os = "linux")]
fn close_calls() -> bool {
    calls().is_ok_and(|filter| seccompiler::apply_filter(&filter).is_ok())
}

#[cfg(target_os = "linux")]
fn calls() -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };
    let rule = |argument, operator, value: libc::c_int| {
        let value = value.unsigned_abs().into();
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
    };
    let kind = SeccompCmpOp::MaskedEq(0xf);
    // The server's own socket is a stream in the file system.
    let sockets = vec![
        rule(0, SeccompCmpOp::Ne, libc::AF_UNIX)?,
        rule(1, kind.clone(), libc::SOCK_DGRAM)?,
        rule(1, kind, libc::SOCK_SEQPACKET)?,
    ];
    let calls = FORBIDDEN.iter().map(|call| (*call, Vec::new()));
    let calls = calls.chain([(libc::SYS_socket, sockets)]);
    // These are the same calls under their numbers in the x32 ABI, where the kernel supports it.
    let others = [0].into_iter().chain(cfg!(target_arch = "x86_64").then_some(0x4000_0000));
    let all = calls.flat_map(|(call, rules)| others.clone().map(move |bit| (call | bit, rules.clone())));
    let forbidden = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(
        all.collect(),
        SeccompAction::Allow,
        forbidden,
        std::env::consts::ARCH.try_into()?,
    )?;
    filter.try_into()
}

#[cfg(not(target_os = "linux"))]
fn close_files(_: &Confinement) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn close_calls() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn run(folder: &Path, script: &'static str) -> (bool, Vec<&'static str>) {
        let confines = Confinement { folder: folder.to_owned(), programs: "/usr/bin".into() };
        let folder = folder.to_owned();
        let work = async move {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script, "sh"]).arg(folder).status().is_ok_and(|status| status.success())
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(confined(confines, work)).unwrap()
    }

    #[test]
    fn a_program_that_is_shut_in_reaches_its_folder_and_nothing_else() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (done, _) = run(folder.path(), "echo x > \"$1/file\" && cat \"$1/file\" > /dev/null");
        assert!(done, "its own folder is its own");
        let secret = other.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        let path: &'static str = secret.display().to_string().leak();
        let (read, open) = run(folder.path(), format!("cat {path} || echo y > {path}").leak());
        let said = open.iter().any(|it| it.contains("Landlock"));
        assert_eq!(read, said, "what is not closed is said: {open:?}");
        let listed = std::fs::read_dir(other.path()).unwrap().count();
        assert_eq!(listed, 1, "this thread is not shut in");
    }
}
