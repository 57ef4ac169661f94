use mezite_proto::v1::*;
use tonic::Code;

use crate::cluster::{Caller, Cluster};

async fn put(caller: &mut Caller, kind: &str, name: &str, spec: &str) -> Result<Object, tonic::Status> {
    let request = PutObjectRequest {
        kind: kind.into(),
        name: name.into(),
        spec: spec.as_bytes().to_vec(),
        expected_revision: None,
    };
    caller.client.put_object(caller.with(request)).await.map(tonic::Response::into_inner)
}

async fn list(caller: &mut Caller, kind: &str) -> Result<Vec<String>, Code> {
    let request = caller.with(ListObjectsRequest { kind: kind.into(), ..ListObjectsRequest::default() });
    let reply = caller.client.list_objects(request).await.map_err(|status| status.code())?;
    Ok(reply.into_inner().objects.into_iter().map(|object| object.name).collect())
}

async fn delete(caller: &mut Caller, kind: &str, name: &str) -> Result<(), Code> {
    let request = DeleteObjectRequest { kind: kind.into(), name: name.into(), expected_revision: None };
    caller.client.delete_object(caller.with(request)).await.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn reading_and_writing_follow_the_role() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    for kind in ["user", "role", "token", "node", "lock", "config"] {
        list(&mut admin, kind).await.unwrap();
    }
    let mut carol = cluster.new_user("carol", &["auditor"], &[]).await;
    assert_eq!(list(&mut admin, "user").await.unwrap(), ["admin", "alice", "carol"]);
    assert_eq!(list(&mut admin, "role").await.unwrap().len(), 4);
    for (user, name, role) in [(&mut alice, "alice", "access"), (&mut carol, "carol", "auditor")] {
        assert_eq!(list(user, "user").await.unwrap(), [name], "one's own");
        assert_eq!(list(user, "role").await.unwrap(), [role], "one's own");
        let other = user.with(GetObjectRequest { kind: "role".into(), name: "admin".into() });
        assert_eq!(user.client.get_object(other).await.unwrap_err().code(), Code::NotFound);
    }
    for kind in ["token", "lock", "config"] {
        assert_eq!(list(&mut alice, kind).await, Err(Code::PermissionDenied), "{kind}");
    }
    assert_eq!(list(&mut admin, "secret").await, Err(Code::InvalidArgument));
    let lock = r#"{"target_type":"user","target":"admin"}"#;
    for (kind, spec) in
        [("user", r#"{"roles":["admin"]}"#), ("role", "{}"), ("lock", lock), ("config", r#"{"value":"1h"}"#)]
    {
        assert_eq!(put(&mut alice, kind, "alice", spec).await.unwrap_err().code(), Code::PermissionDenied, "{kind}");
        assert_eq!(delete(&mut alice, kind, "alice").await, Err(Code::PermissionDenied), "{kind}");
    }
    assert_eq!(crate::sessions::events(&mut admin, "authz.denied").await.len(), 11);
}

#[tokio::test]
async fn a_user_sees_the_nodes_that_the_roles_reach() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    cluster.machine("node", "web-1").await;
    put(&mut admin, "role", "dev", r#"{"allow":{"node_labels":{"env":"dev"},"logins":["dev"]}}"#).await.unwrap();
    let mut alice = cluster.new_user("alice", &["access"], &["ubuntu"]).await;
    let mut bob = cluster.new_user("bob", &["dev"], &[]).await;
    let mut vera = cluster.new_user("vera", &["viewer"], &[]).await;
    assert_eq!(list(&mut alice, "node").await.unwrap(), ["web-1"]);
    assert!(list(&mut bob, "node").await.unwrap().is_empty());
    assert_eq!(list(&mut vera, "node").await.unwrap(), ["web-1"]);
    let get = |name: &str| GetObjectRequest { kind: "node".into(), name: name.into() };
    let hidden = bob.client.get_object(bob.with(get("web-1"))).await.unwrap_err();
    let missing = bob.client.get_object(bob.with(get("web-2"))).await.unwrap_err();
    assert_eq!((hidden.code(), missing.code()), (Code::NotFound, Code::NotFound));
    assert_eq!(hidden.message().replace("web-1", ""), missing.message().replace("web-2", ""));

    let node = admin.client.get_object(admin.with(get("web-1"))).await.unwrap().into_inner();
    let mut spec: serde_json::Value = serde_json::from_slice(&node.spec).unwrap();
    spec["labels"] = serde_json::json!({ "env": "dev" });
    put(&mut admin, "node", "web-1", &spec.to_string()).await.unwrap();
    assert_eq!(list(&mut bob, "node").await.unwrap(), ["web-1"]);
    spec["node_id"] = mezite_net::clock::uuid().into();
    assert_eq!(put(&mut admin, "node", "web-1", &spec.to_string()).await.unwrap_err().code(), Code::InvalidArgument);
    delete(&mut admin, "node", "web-1").await.unwrap();
    assert!(list(&mut bob, "node").await.unwrap().is_empty());
}

#[tokio::test]
async fn the_token_of_a_page_names_nothing_that_is_hidden() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    for (name, env) in [("a-dev", "dev"), ("b-secret", "prod"), ("c-dev", "dev"), ("d-secret", "prod")] {
        cluster.machine("node", name).await;
        let get = admin.with(GetObjectRequest { kind: "node".into(), name: name.into() });
        let node = admin.client.get_object(get).await.unwrap().into_inner();
        let mut spec: serde_json::Value = serde_json::from_slice(&node.spec).unwrap();
        spec["labels"] = serde_json::json!({ "env": env });
        put(&mut admin, "node", name, &spec.to_string()).await.unwrap();
    }
    put(&mut admin, "role", "dev", r#"{"allow":{"node_labels":{"env":"dev"},"logins":["dev"]}}"#).await.unwrap();
    let mut zoe = cluster.new_user("zoe", &["dev"], &[]).await;
    for (kind, visible) in [("user", vec!["zoe"]), ("role", vec!["dev"]), ("node", vec!["a-dev", "c-dev"])] {
        let (mut names, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let request = ListObjectsRequest { kind: kind.into(), page_token, page_size: 1 };
            let reply = zoe.client.list_objects(zoe.with(request)).await.unwrap().into_inner();
            names.extend(reply.objects.into_iter().map(|object| object.name));
            page_token = reply.next_page_token;
            pages += 1;
            if page_token.is_empty() {
                break;
            }
            assert!(visible.contains(&page_token.as_str()), "{kind}: {page_token}");
        }
        assert_eq!((names, pages), (visible.iter().map(ToString::to_string).collect(), visible.len()), "{kind}");
    }
}

#[tokio::test]
async fn nobody_can_be_left_without_an_administrator() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let lock = |kind: &str, target: &str| format!(r#"{{"target_type":"{kind}","target":"{target}"}}"#);
    assert_eq!(delete(&mut admin, "user", "admin").await, Err(Code::Aborted));
    assert_eq!(put(&mut admin, "user", "admin", r#"{"roles":["access"]}"#).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(put(&mut admin, "lock", "l", &lock("user", "admin")).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(put(&mut admin, "lock", "l", &lock("role", "admin")).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(delete(&mut admin, "role", "viewer").await, Err(Code::Aborted), "built in");

    let spec = br#"{"roles":["admin"]}"#.to_vec();
    let invited = CreateUserRequest { name: "invited".into(), spec, password: String::new() };
    admin.client.create_user(admin.with(invited)).await.unwrap();
    assert_eq!(delete(&mut admin, "user", "admin").await, Err(Code::Aborted), "the other was only invited");
    let reset = ResetPasswordRequest { name: "admin".into(), password: String::new() };
    let refused = admin.client.reset_password(admin.with(reset)).await.unwrap_err();
    assert!(refused.code() == Code::Aborted && refused.message().contains("mezctl users update"), "{refused}");
    let mut second = cluster.new_user("second", &["admin"], &[]).await;
    put(&mut admin, "lock", "l", &lock("user", "admin")).await.unwrap();
    assert_eq!(put(&mut second, "user", "second", r#"{"roles":[]}"#).await.unwrap_err().code(), Code::Aborted);
    delete(&mut second, "lock", "l").await.unwrap();
    delete(&mut second, "user", "admin").await.unwrap();
}

#[tokio::test]
async fn tokens_are_shown_once_and_deleted_by_name_or_id() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let (one, two) = (cluster.token("node").await, cluster.token("node").await);
    let request = ListObjectsRequest { kind: "token".into(), ..ListObjectsRequest::default() };
    let objects = admin.client.list_objects(admin.with(request)).await.unwrap().into_inner().objects;
    assert_eq!(objects.len(), 2);
    let shown = format!("{objects:?}{:?}", crate::sessions::events(&mut admin, "token.create").await);
    assert!(!shown.contains(&one.token) && !shown.contains(&two.token));
    let name = objects.iter().find(|object| String::from_utf8_lossy(&object.status).contains(&one.id)).unwrap();
    delete(&mut admin, "token", &name.name).await.unwrap();
    delete(&mut admin, "token", &two.id).await.unwrap();
    assert!(list(&mut admin, "token").await.unwrap().is_empty());
    let spec = r#"{"roles":["node"],"expires":"2100-01-01T00:00:00Z"}"#;
    assert_eq!(put(&mut admin, "token", "t", spec).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_bad_spec_names_its_field_and_changes_are_audited() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let bad = put(&mut admin, "role", "r", r#"{"options":{"port_fowarding":true}}"#).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert!(
        bad.message().contains("spec.options.port_fowarding") && bad.message().contains("port_forwarding"),
        "{bad}"
    );
    assert_eq!(put(&mut admin, "role", "r", "not json").await.unwrap_err().code(), Code::InvalidArgument);
    let twice = r#"{"deny":{"logins":["root"]},"deny":{}}"#;
    let twice = put(&mut admin, "role", "r", twice).await.unwrap_err();
    assert_eq!(
        (twice.code(), twice.message().contains("deny is given twice")),
        (Code::InvalidArgument, true),
        "{twice}"
    );
    assert_eq!(
        put(&mut admin, "user", "u", r#"{"roles":["nothing"]}"#).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    put(&mut admin, "config", "session_ttl", r#"{"value":"1h"}"#).await.unwrap();
    let event = &crate::sessions::events(&mut admin, "config.set").await[0];
    assert_eq!(event["details"]["changed"]["value"]["to"], "1h");
    assert_eq!((&event["user_name"], &event["resource_name"]), (&"admin".into(), &"session_ttl".into()));
    let session = cluster.login("admin", crate::cluster::PASSWORD).await.unwrap();
    let life = session.expires_unix - mezite_net::clock::now_unix().cast_signed();
    assert!((3590..=3600).contains(&life), "{life}");
}
