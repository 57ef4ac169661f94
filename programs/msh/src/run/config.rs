//! `config`: the OpenSSH configuration.

use mezite_client::api::Nodes;
use mezite_client::ssh_config::{self, Block, shown_path};
use mezite_client::{Result, cli};

use super::Context;
use crate::args::Config;

pub(super) async fn run(context: &Context, args: Config) -> Result<()> {
    let file = args.file.unwrap_or_else(|| context.places.ssh_config.clone());
    if args.remove {
        let file_name = file.display();
        return cli::print(&match ssh_config::remove(&file)? {
            true => format!("Removed the block of msh from {file_name}\n"),
            false => format!("{file_name} holds no block of msh\n"),
        });
    }
    let profile = context.profile()?;
    let reply: Nodes = context.session(&profile)?.web.get("/v1/webapi/nodes").await?;
    let mut nodes: Vec<&str> = reply.nodes.iter().map(|node| node.hostname.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let home = context.places.passwd_home.as_deref();
    let is_active = context.store.active()?.is_some_and(|host| host == profile.proxy.host);
    let block = Block {
        cluster: &profile.cluster,
        nodes,
        key: shown_path(&context.store.key_path(&profile.proxy), home),
        known_hosts: shown_path(&context.store.known_hosts(), home),
        proxy: (!is_active).then_some(&profile.proxy),
    }
    .render();
    if !args.append {
        return cli::print(&block);
    }
    ssh_config::append(&file, &block)?;
    let read = home.map(|home| home.join(".ssh/config"));
    if read.is_some_and(|read| read != file) {
        eprintln!("msh: ssh does not read {0} by itself; use ssh -F {0}", file.display());
    }
    cli::print(&format!("Wrote the nodes of {} to {}\n", profile.cluster, file.display()))
}
