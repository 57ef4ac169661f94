use mezite_core::identity::CLUSTER;
use mezite_net::tls::{Peer, PeerRole};
use mezite_proto::v1::*;
use mezite_ssh::cert::{CertKind, Certificate};
use tonic::{Code, Request};

use crate::cluster::{Cluster, certificates, joining};

async fn node_names(cluster: &Cluster) -> Vec<(String, serde_json::Value)> {
    let mut admin = cluster.admin().await;
    let request = ListObjectsRequest { kind: "node".into(), ..ListObjectsRequest::default() };
    let objects = admin.client.list_objects(admin.with(request)).await.unwrap().into_inner().objects;
    objects.into_iter().map(|o| (o.name, serde_json::from_slice(&o.spec).unwrap())).collect()
}

#[tokio::test]
async fn a_hundred_machines_with_one_token_are_one_node() {
    let cluster = Cluster::new().await;
    let token = cluster.token("node").await;
    assert!(token.ca_pin.starts_with("sha256:"));
    let mut racers = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (request, _) = joining(&token.token, "node", &format!("web-{n}"));
        let mut client = cluster.nobody();
        racers.spawn(async move { client.generate_host_certs(request).await.map_err(|status| status.code()) });
    }
    let results = racers.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(node_names(&cluster).await.len(), 1);
}

#[tokio::test]
async fn a_node_gets_certificates_for_its_names_and_comes_back_without_its_token() {
    let cluster = Cluster::new().await;
    let token = cluster.token("node").await.token;
    let (request, key) = joining(&token, "node", "web-1");
    let certs = cluster.nobody().generate_host_certs(request).await.unwrap().into_inner();
    let id = certs.host_id.clone();
    let (ssh, _) = Certificate::from_openssh(&certs.ssh_certificate).unwrap();
    assert_eq!(ssh.kind, CertKind::Host);
    let names = ["web-1", "web-1.example", "web-1.mezite", "web-1.example.mezite", id.as_str()];
    assert_eq!(ssh.principals, names);
    assert_eq!(ssh.extension(CLUSTER).as_deref(), Some("\"example\""));
    let life = ssh.valid_before - mezite_net::clock::now_unix();
    assert!((86_390..=86_400).contains(&life), "{life}");
    let chain = certificates(&certs.tls_certificate_pem);
    let peer = Peer::from_verified_leaf(&chain[0]).unwrap();
    assert_eq!((peer.cluster.as_str(), peer.role, peer.id.as_str()), ("example", PeerRole::Agent, id.as_str()));
    assert_eq!(chain.len(), 2, "the CA comes with it, for agents that pin");

    let mut node = cluster.as_machine(certs, &key);
    let register = RegisterAgentRequest {
        name: "web-1".into(),
        labels: [("env".into(), "dev".into()), ("os".into(), "linux".into())].into(),
        version: "0.1.0".into(),
        recording_mode: "node".into(),
    };
    let registered = node.client.register_agent(register.clone()).await.unwrap().into_inner();
    assert_eq!((registered.agent_id, registered.cluster_name), (id.clone(), "example".to_owned()));
    let nodes = node_names(&cluster).await;
    assert_eq!(nodes[0].1["labels"], serde_json::json!({ "env": "prod", "os": "linux" }));
    assert_eq!(nodes[0].1["version"], "0.1.0");

    // A later claim gains nothing and loses nothing.
    let other = [("env".to_owned(), "dev".to_owned()), ("team".to_owned(), "core".to_owned())];
    let changed = RegisterAgentRequest { labels: other.into(), ..register.clone() };
    let reply = node.client.register_agent(changed).await.unwrap().into_inner();
    assert_eq!(reply.labels, [("env".to_owned(), "prod".to_owned()), ("os".to_owned(), "linux".to_owned())].into());
    let nodes = node_names(&cluster).await;
    assert_eq!(nodes[0].1["labels"], serde_json::json!({ "env": "prod", "os": "linux" }));
    assert_eq!(nodes[0].1["claimed_labels"], serde_json::json!({ "env": "dev", "team": "core" }));
    for bad in
        [("еnv", "prod"), ("env", "prod\u{200b}"), ("env", " prod"), ("env", "a\tb"), ("e nv", "x"), ("env", "a  b")]
    {
        let labels = [(bad.0.to_owned(), bad.1.to_owned())].into();
        let refused =
            node.client.register_agent(RegisterAgentRequest { labels, ..register.clone() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}");
    }
    let twice = [("env".to_owned(), "a".to_owned()), ("Env".to_owned(), "b".to_owned())].into();
    let refused =
        node.client.register_agent(RegisterAgentRequest { labels: twice, ..register.clone() }).await.unwrap_err();
    assert!(refused.message().contains("differ in case only"), "{refused}");

    let (renewal, renewed_key) = joining("", "node", "another-name");
    let renewed = node.client.generate_host_certs(renewal).await.unwrap().into_inner();
    assert_eq!(renewed.host_id, id);
    let (ssh, _) = Certificate::from_openssh(&renewed.ssh_certificate).unwrap();
    assert_eq!(ssh.principals, names, "the name is what the node joined under");
    let mut node = cluster.as_machine(renewed, &renewed_key);
    let mut request = Request::new(AgentHeartbeatRequest { live_sessions: 0 });
    request.metadata_mut().insert("x-agent-id", id.parse().unwrap());
    node.client.agent_heartbeat(request).await.unwrap();
    let mut request = Request::new(AgentHeartbeatRequest { live_sessions: 0 });
    request.metadata_mut().insert("x-agent-id", "somebody-else".parse().unwrap());
    assert_eq!(node.client.agent_heartbeat(request).await.unwrap_err().code(), Code::PermissionDenied);
    let bad = RegisterAgentRequest { labels: [("a b".into(), String::new())].into(), ..register };
    assert_eq!(node.client.register_agent(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_online_node_keeps_its_name_and_an_offline_one_loses_it_with_its_identity() {
    let cluster = Cluster::new().await;
    let mut old = cluster.machine("node", "web-1").await;
    let mut proxy = cluster.machine("proxy", "p").await;
    let report = |online: &[&str]| ReportPresenceRequest { online: online.iter().map(|id| (*id).to_owned()).collect() };
    proxy.client.report_presence(report(&[&old.certs.host_id])).await.unwrap();

    let (request, _) = joining(&cluster.token("node").await.token, "node", "web-1");
    let taken = cluster.nobody().generate_host_certs(request).await.unwrap_err();
    assert_eq!(taken.code(), Code::Aborted, "{taken}");
    old.client.agent_heartbeat(AgentHeartbeatRequest::default()).await.unwrap();

    proxy.client.report_presence(report(&[])).await.unwrap();
    let mut new = cluster.machine("node", "web-1").await;
    assert_ne!(new.certs.host_id, old.certs.host_id);
    new.client.agent_heartbeat(AgentHeartbeatRequest::default()).await.unwrap();
    let revoked = old.client.agent_heartbeat(AgentHeartbeatRequest::default()).await.unwrap_err();
    assert_eq!(revoked.code(), Code::PermissionDenied);
    let (renewal, _) = joining("", "node", "web-1");
    assert_eq!(old.client.generate_host_certs(renewal).await.unwrap_err().code(), Code::PermissionDenied);

    let mut admin = cluster.admin().await;
    let request = ListAuditRequest { types: vec!["node.replaced".into()], ..ListAuditRequest::default() };
    assert_eq!(admin.client.list_audit(admin.with(request)).await.unwrap().into_inner().events.len(), 1);
}

#[tokio::test]
async fn bad_tokens_names_and_keys_are_refused() {
    let cluster = Cluster::new().await;
    let code = async |token: &str, role: &str, name: &str| {
        let (request, _) = joining(token, role, name);
        cluster.nobody().generate_host_certs(request).await.map(drop).map_err(|status| status.code())
    };
    let token = cluster.token("node").await.token;
    assert_eq!(code("", "node", "web").await, Err(Code::PermissionDenied));
    assert_eq!(code("0123456789abcdef", "node", "web").await, Err(Code::PermissionDenied));
    assert_eq!(code(&token, "proxy", "web").await, Err(Code::PermissionDenied), "wrong role");
    assert_eq!(code(&token, "auth", "web").await, Err(Code::InvalidArgument));
    for name in ["localhost", "", "-x", "a b", "web.mezite", "web.example", "example", "10.0.0.1", "WEB", "a/b"] {
        assert_eq!(code(&token, "node", name).await, Err(Code::InvalidArgument), "{name:?}");
    }
    for name in ["a b", "web\u{1b}[2J", &"x".repeat(2000)] {
        assert_eq!(code(&token, "proxy", name).await, Err(Code::InvalidArgument), "{name:?}");
    }
    let (mut request, _) = joining(&token, "node", "web");
    request.tls_public_key = vec![0; 44];
    assert!(cluster.nobody().generate_host_certs(request).await.is_err());
    assert_eq!(code(&token, "node", "web").await, Ok(()), "no refusal used the token up");
    assert_eq!(code(&token, "node", "web").await, Err(Code::PermissionDenied), "spent");
}

#[tokio::test]
async fn a_locked_node_gets_no_certificates_and_can_still_tell_of_its_sessions() {
    let cluster = Cluster::new().await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let spec = br#"{"target_type":"agent","target":"web-1"}"#.to_vec();
    let put = PutObjectRequest { kind: "lock".into(), name: "l".into(), spec, expected_revision: None };
    admin.client.put_object(admin.with(put)).await.unwrap();
    let (renewal, _) = joining("", "node", "web-1");
    assert_eq!(node.client.generate_host_certs(renewal).await.unwrap_err().code(), Code::Aborted);
    let start = StartSessionRequest { session: Some(crate::sessions::info("alice")) };
    assert_eq!(node.client.start_session(start).await.unwrap_err().code(), Code::Aborted);
    node.client.end_session(crate::sessions::ending(crate::sessions::info("alice"), "locked")).await.unwrap();
}
