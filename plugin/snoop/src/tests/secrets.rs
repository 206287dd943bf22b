//! Credentials pass, and nothing keeps them.

use super::*;

const PASSWORD: &str = "correct-horse-battery-staple";

fn holds(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn no_buffer_and_no_output_holds_a_password_at_any_time() {
    let mut asked = Asked::for_pod("registry.example/app", "web");
    asked.password = Some(PASSWORD.to_owned());
    let bytes = [Client::pull(1, &asked), Client::pull(3, &asked)].concat();
    assert!(holds(&bytes, PASSWORD));
    // The shortest part that is looked for is longer than the header of a frame, which may be kept.
    let parts: Vec<String> = PASSWORD
        .as_bytes()
        .windows(6)
        .map(|part| String::from_utf8(part.to_vec()).unwrap())
        .collect();
    for read in [1, 2, 5, 13, 100, 1000] {
        for late in [0, 1, 30, 70, 100] {
            let mut ear = if late == 0 { connected() } else { Ear::new() };
            ear.pause();
            for piece in bytes[late..].chunks(read) {
                ear.client(piece);
                let held = ear.snoop.held_bytes();
                let said = format!("{:?} {:?}", ear.snoop, ear.seen);
                for part in &parts {
                    assert!(!holds(&held, part), "{part} is kept");
                    assert!(!said.contains(part), "{part} is shown");
                }
            }
            assert_eq!(
                ear.requests().len(),
                if late == 0 { 2 } else { ear.requests().len() }
            );
        }
    }
}

#[test]
fn a_piece_shows_no_bytes() {
    let piece = Piece {
        connection: 1,
        direction: Direction::FromClient,
        offset: 2,
        at: 3,
        bytes: &mut PASSWORD.as_bytes().to_vec(),
    };
    let shown = format!("{piece:?}");
    assert!(!shown.contains("correct") && shown.contains("len: 28"), "{shown}");
    let numbers = format!("{:?}", PASSWORD.as_bytes());
    assert!(!shown.contains(&numbers[1..20]));
}

#[test]
fn what_is_dropped_is_forgotten() {
    let mut ear = connected();
    let mut asked = Asked::for_pod("registry.example/app", "web");
    asked.password = Some(PASSWORD.to_owned());
    let bytes = Client::pull(1, &asked);
    ear.client(&bytes[..bytes.len() - 20]);
    assert!(
        holds(&ear.snoop.held_bytes(), "registry.example/app"),
        "else this test looks at nothing"
    );
    assert!(ear.snoop.held() > 0);
    ear.client(&reset(1));
    // Cut within a frame, these bytes are part of the body; so the frame's rest ends it.
    ear.snoop.closed(CONNECTION, ear.at, &mut ear.seen);
    assert_eq!(ear.snoop.held(), 0);
    assert_eq!(ear.snoop.held_bytes(), []);
}
