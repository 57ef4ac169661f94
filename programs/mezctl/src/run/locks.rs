//! `locks`.

use mezite_client::error::invalid;
use mezite_client::{Error, Result, cli};
use mezite_core::kind::lock::TargetType;
use mezite_core::kind::{Kind, Lock, LockSpec, Role, User};
use mezite_core::text::{Table, escape_control};
use mezite_core::{Fault, when};
use mezite_net::clock;
use mezite_proto::v1::Object;
use serde_json::Value;

use super::{Context, encode, record, records, spec};
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
    let (target_type, target) = match (args.user, args.role, args.kind, args.name) {
        (Some(user), None, None, None) => (TargetType::User, user),
        (None, Some(role), None, None) => (TargetType::Role, role),
        (None, None, Some(kind), Some(name)) => (target_type("--type", &kind)?, name),
        _ => return Err(invalid("", "give one of --user, --role, or --type with --name")),
    };
    let expires = args.ttl.map(|ttl| clock::now() + ttl.0);
    let lock = LockSpec { target_type, target, message: args.message, expires };
    let name = clock::uuid();
    Lock::validate(&name, &lock)?;
    let stored = context.admin.put(Lock::KIND, &name, encode(&lock)?, Some(0)).await?;
    // A lock may come before its target, but one with a typo locks nobody.
    let kind = match lock.target_type {
        TargetType::User => Some(User::KIND),
        TargetType::Role => Some(Role::KIND),
        _ => None,
    };
    if let Some(kind) = kind
        && let Err(Error::Fault(Fault::NotFound(_))) = context.admin.get(kind, &lock.target).await
    {
        eprintln!("mezctl: warning: there is no {kind} {} so far", escape_control(&lock.target));
    }
    let target = format!("{} {}", lock.target_type.as_str(), escape_control(&lock.target));
    context.format.print_text(&record(&stored), |_| format!("Locked {target} (lock {name})\n"))
}

async fn delete(mut context: Context, args: DeleteLock) -> Result<()> {
    let names = match (args.lock, args.user, args.role, args.target_type, args.target_name) {
        (Some(lock), None, None, None, None) => vec![lock],
        (None, Some(user), None, None, None) => locks_of(&mut context, TargetType::User, &user).await?,
        (None, None, Some(role), None, None) => locks_of(&mut context, TargetType::Role, &role).await?,
        (None, None, None, Some(kind), Some(target)) => {
            locks_of(&mut context, target_type("--target-type", &kind)?, &target).await?
        }
        _ => return Err(invalid("", "give one of a lock, --user, --role, or --target-type with --target-name")),
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
    serde_json::from_value(Value::String(text.to_owned()))
        .map_err(|_| invalid(flag, format!("{text:?} is not one of user, role, agent, agent_identity")))
}
