//! An operator pushes a policy, and nodes get it.

use magi_master_api::client::ToMaster;
use magi_master_api::message::PolicyAnswer;
use magi_master_api::wire;
use tonic::Code;

use super::world::{World, until};

fn push(text: impl Into<Vec<u8>>, replaces: u64) -> wire::PushPolicyRequest {
    wire::PushPolicyRequest {
        text: text.into().into(),
        replaces,
    }
}

#[tokio::test]
async fn an_operator_pushes_a_policy_and_nodes_get_it() {
    let world = World::new().await;
    let mut operator = world.operator().await;
    let none = operator.get_policy(wire::GetPolicyRequest {}).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    let text = "version: 1\nmode: enforce\n";
    let pushed = operator.push_policy(push(text, 0)).await.unwrap().into_inner();
    let revision = pushed.version.unwrap().revision;
    assert!(!pushed.unchanged && revision > 0);
    let again = operator
        .push_policy(push(text, revision))
        .await
        .unwrap()
        .into_inner();
    assert!(again.unchanged && again.version.unwrap().revision == revision);

    let mut a = world.node("a");
    let (version, bytes) = a.policy().await;
    assert_eq!((version.revision, &*bytes), (revision, text.as_bytes()));
    assert_eq!(world.shown("a").unwrap().known.policy_since, None);
    let answer = PolicyAnswer {
        version,
        refused: None,
    };
    a.says.send(ToMaster::Policy(answer)).await.unwrap();
    until("it is in force", || {
        world.shown("a").unwrap().known.policy_since.is_some()
    })
    .await;
    let request = wire::ListNodesRequest::default();
    let mut nodes = operator.list_nodes(request).await.unwrap().into_inner();
    let shown = nodes.message().await.unwrap().unwrap();
    assert!(shown.connected && shown.since_ms > 0 && shown.policy_since_ms >= shown.since_ms);

    let status = operator
        .status(wire::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((&*status.policy_by, &*status.policy_source), ("operator ann", ""));
    let kept = operator.get_policy(wire::GetPolicyRequest {}).await.unwrap();
    assert_eq!(kept.into_inner().text, text);
}

#[tokio::test]
async fn what_is_wrong_or_came_too_late_changes_nothing() {
    let world = World::new().await;
    let mut operator = world.operator().await;
    let wrong = operator
        .push_policy(push("version: 1\nmode: sometimes\n", 0))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains("sometimes"), "{wrong}");
    let many = format!("version: 1\n{}", "mistake: 1\n".repeat(50_000));
    let many = operator.push_policy(push(many, 0)).await.unwrap_err();
    assert_eq!(many.code(), Code::InvalidArgument, "{many}");
    let no_text = operator.push_policy(push([0xff], 0)).await.unwrap_err();
    assert_eq!(no_text.code(), Code::InvalidArgument);
    // As large as a policy may be, there and back.
    let mut large = "version: 1\n".to_owned();
    large.extend(std::iter::repeat_n(
        '#',
        magi_master_api::bounds::MAX_POLICY - large.len(),
    ));
    operator.push_policy(push(large.clone(), 0)).await.unwrap();
    let kept = operator.get_policy(wire::GetPolicyRequest {}).await.unwrap();
    assert_eq!(kept.into_inner().text.len(), large.len());
    let larger = operator.push_policy(push(large + "#", 0)).await.unwrap_err();
    assert_eq!(larger.code(), Code::InvalidArgument);
    let late = operator.push_policy(push("version: 1\n", 7)).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted);
    assert!(late.message().contains("somebody else"), "{late}");
}
