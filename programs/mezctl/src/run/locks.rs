//! `locks`.

use mezite_client::admin::refused;
use mezite_client::error::invalid;
use mezite_client::{Error, Result, cli};
use mezite_core::kind::lock::TargetType;
use mezite_core::kind::{Kind, Lock, LockSpec, Node, Role, User};
use mezite_core::text::{Table, escape_control};
use mezite_core::{Fault, when};
use mezite_net::clock;
use mezite_proto::v1::{self, Object};

use super::{Context, encode, force, record, records, spec};
use crate::args::{CreateLock, DeleteLock, Locks};

pub(super) async fn run(mut context: Context, command: Locks) -> Result<()> {
    match command {
        Locks::Create(args) => create(context, args).await,
        Locks::List => {
            let locks = in_force(context.admin.list(Lock::KIND).await?);
            context.format.print(&records(&locks), |_| table(&locks))
        }
        Locks::Delete(args) => delete(context, args).await,
    }
}

/// Without those that have expired. One that cannot be read is shown: it still locks.
fn in_force(mut locks: Vec<Object>) -> Vec<Object> {
    let now = clock::now();
    locks.retain(|lock| spec::<Lock>(lock).map_or(true, |spec| spec.expires.is_none_or(|expires| expires > now)));
    locks
}

fn table(locks: &[Object]) -> Table {
    let mut table = Table::new(&["LOCK", "TYPE", "TARGET", "EXPIRES", "MESSAGE"]);
    for lock in locks {
        match spec::<Lock>(lock) {
            Ok(spec) => {
                let expires = spec.expires.map_or_else(|| "never".to_owned(), when::seconds);
                table.row([lock.name.as_str(), spec.target_type.as_str(), &spec.target, &expires, &spec.message]);
            }
            Err(error) => table.row([lock.name.as_str(), "unreadable:", &error]),
        }
    }
    table
}

async fn create(mut context: Context, args: CreateLock) -> Result<()> {
    let (target_type, target) = match (args.target.named(), args.kind, args.name) {
        (Some(named), None, None) => named,
        (None, Some(kind), Some(name)) => (target_type("--type", &kind)?, name),
        _ => return Err(invalid("", "give one target by a flag, or --type with --name")),
    };
    let expires = args.ttl.map(|ttl| clock::now() + ttl.0);
    let lock = LockSpec { target_type, target, message: args.message, expires };
    let name = clock::uuid();
    Lock::validate(&name, &lock)?;
    let stored = context.admin.put(Lock::KIND, &name, encode(&lock)?, Some(0)).await?;
    let force = force::wait(&mut context, stored.revision).await;
    // A lock may come before its target, but one with a typo locks nobody.
    if !is_known(&mut context, &lock).await? {
        let kind = lock.target_type.as_str();
        eprintln!("mezctl: warning: there is no {kind} {} so far", escape_control(&lock.target));
    }
    let target = format!("{} {}", lock.target_type.as_str(), escape_control(&lock.target));
    let mut record = record(&stored);
    let mut done = format!("Locked {target} (lock {name})\n");
    if let (Some(force), Some(fields)) = (force, record.as_object_mut()) {
        fields.insert("confirmed".into(), force.confirmed.into());
        if force.unconfirmed.is_empty() {
            done += &format!("In force on {}\n", count(force.confirmed.into(), "agent or proxy", "agents and proxies"));
        }
        fields.insert("unconfirmed".into(), force.unconfirmed.into());
    }
    context.format.print_text(&record, |_| done)
}

/// Whether the target is there. An OS login is known on its nodes only.
async fn is_known(context: &mut Context, lock: &LockSpec) -> Result<bool> {
    let found = match lock.target_type {
        TargetType::User => context.admin.get(User::KIND, &lock.target).await.map(drop),
        TargetType::Role => context.admin.get(Role::KIND, &lock.target).await.map(drop),
        TargetType::Agent | TargetType::AgentIdentity | TargetType::Node => {
            context.admin.get(Node::KIND, &lock.target).await.map(drop)
        }
        TargetType::Login => Ok(()),
        TargetType::MfaDevice => {
            let (user, device) = lock.target.split_once('/').unwrap_or_default();
            let request = context.admin.request(v1::ListMfaRequest { user: user.to_owned() })?;
            match context.admin.auth.list_mfa(request).await.map_err(refused) {
                Ok(reply) => return Ok(reply.into_inner().factors.iter().any(|factor| factor.name == device)),
                Err(error) => Err(error),
            }
        }
    };
    match found {
        Err(Error::Fault(Fault::NotFound(_))) => Ok(false),
        found => found.map(|()| true),
    }
}

/// `1 agent or proxy`, `3 agents and proxies`.
fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

async fn delete(mut context: Context, args: DeleteLock) -> Result<()> {
    let names = match (args.lock, args.target.named(), args.target_type, args.target_name) {
        (Some(lock), None, None, None) => vec![lock],
        (None, Some((kind, target)), None, None) => locks_of(&mut context, kind, &target).await?,
        (None, None, Some(kind), Some(target)) => {
            locks_of(&mut context, target_type("--target-type", &kind)?, &target).await?
        }
        _ => return Err(invalid("", "give a lock, one target by a flag, or --target-type with --target-name")),
    };
    for name in &names {
        context.admin.delete(Lock::KIND, name).await?;
        cli::print(&format!("Lock {} deleted\n", escape_control(name)))?;
    }
    Ok(())
}

/// The names of all locks of a target; at least one.
async fn locks_of(context: &mut Context, kind: TargetType, target: &str) -> Result<Vec<String>> {
    let locks = context.admin.list(Lock::KIND).await?;
    let is_meant = |lock: &Object| spec::<Lock>(lock).is_ok_and(|s| s.target_type == kind && s.target == target);
    let names: Vec<String> = locks.into_iter().filter(is_meant).map(|lock| lock.name).collect();
    if names.is_empty() {
        return Err(Fault::NotFound(format!("no lock on {} {}", kind.as_str(), escape_control(target))).into());
    }
    Ok(names)
}

fn target_type(flag: &str, text: &str) -> Result<TargetType> {
    TargetType::parse(text).map_err(|error| invalid(flag, error.message))
}
