//! The kernel's part is played by the other end of a socket pair, so that it can misbehave.

use netlink_packet_sock_diag::AF_INET;
use rustix::net::{SocketFlags, socketpair};

use super::*;

const SHORT: Duration = Duration::from_millis(50);

fn played() -> (Channel, OwnedFd) {
    let (ours, kernels) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    set_socket_timeout(&ours, Timeout::Recv, Some(SHORT)).unwrap();
    (Channel::over(ours), kernels)
}

fn answer(kernel: &OwnedFd, datagram: &[u8]) {
    assert_eq!(
        rustix::net::send(kernel, datagram, SendFlags::empty()),
        Ok(datagram.len())
    );
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

fn done(sequence: u32) -> Vec<u8> {
    message(3, 2, sequence, &[0; 4])
}

fn socket(sequence: u32) -> Vec<u8> {
    let mut body = [0; 72];
    body[0] = AF_INET;
    message(20, 2, sequence, &body)
}

fn everything() -> Question {
    Question::List {
        family: AF_INET,
        states: StateFlags::all(),
    }
}

fn ask(channel: &mut Channel) -> (Result<(), Failure>, usize) {
    let mut sockets = 0;
    let outcome = channel.exchange(&everything(), &mut |_| sockets += 1);
    (outcome, sockets)
}

#[test]
fn an_answer_may_come_in_any_pieces() {
    let (mut channel, kernel) = played();
    answer(&kernel, &socket(1));
    answer(&kernel, &[socket(1), socket(1), message(1, 0, 1, &[])].concat());
    answer(&kernel, &[socket(1), done(1)].concat());
    let (outcome, sockets) = ask(&mut channel);
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(sockets, 4);
}

#[test]
fn answers_to_other_questions_are_passed_over() {
    let (mut channel, kernel) = played();
    answer(
        &kernel,
        &[socket(0), message(2, 0, 9, &(-1_i32).to_ne_bytes()), done(0)].concat(),
    );
    answer(&kernel, &[socket(1), done(1)].concat());
    let (outcome, sockets) = ask(&mut channel);
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(sockets, 1);
}

#[test]
fn an_interrupted_list_is_read_to_its_end() {
    let (mut channel, kernel) = played();
    let mut interrupted = socket(1);
    interrupted[6] |= 0x10;
    answer(&kernel, &interrupted);
    answer(&kernel, &done(1));
    assert!(matches!(ask(&mut channel).0, Err(Failure::Interrupted)));
    answer(&kernel, &done(2));
    assert!(ask(&mut channel).0.is_ok());
}

#[test]
fn a_refusal_leaves_the_channel_in_use() {
    let (mut channel, kernel) = played();
    answer(
        &kernel,
        &message(2, 0, 1, &[(-2_i32).to_ne_bytes().as_slice(), &[0; 16]].concat()),
    );
    assert!(matches!(ask(&mut channel).0, Err(Failure::Refused(2))));
    answer(&kernel, &done(2));
    assert!(ask(&mut channel).0.is_ok());
}

#[test]
fn broken_answers_break_the_channel_with_their_reason() {
    type Expected = fn(&SocketTableError) -> bool;
    let cases: [(Vec<u8>, Expected); 5] = [
        (vec![0; 3], |error| {
            matches!(error, SocketTableError::Malformed { .. })
        }),
        (vec![], |error| {
            matches!(error, SocketTableError::Malformed { .. })
        }),
        (socket(1)[..40].to_vec(), |error| {
            matches!(error, SocketTableError::Malformed { .. })
        }),
        (vec![0; DATAGRAM_LIMIT + 1], |error| {
            matches!(error, SocketTableError::TooLong { .. })
        }),
        (message(4, 0, 1, &[]), |error| {
            matches!(error, SocketTableError::AnswersLost)
        }),
    ];
    for (datagram, expected) in cases {
        let (mut channel, kernel) = played();
        answer(&kernel, &datagram);
        let outcome = ask(&mut channel).0;
        let Err(Failure::Broken(error)) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(expected(&error), "{} bytes: {error:?}", datagram.len());
    }
}

#[test]
fn silence_ends_after_the_timeout() {
    let (mut channel, kernel) = played();
    answer(&kernel, &socket(1));
    let began = Instant::now();
    let (outcome, sockets) = ask(&mut channel);
    assert!(
        matches!(outcome, Err(Failure::Broken(SocketTableError::Timeout { .. }))),
        "{outcome:?}"
    );
    assert!(sockets == 1 && began.elapsed() >= SHORT);
}

#[test]
fn an_endless_answer_ends_after_its_own_timeout() {
    let (mut channel, kernel) = played();
    channel.answer_timeout = SHORT;
    std::thread::scope(|scope| {
        let babble = [socket(1), done(0)].concat();
        // Ends when the channel, and with it the other end, is gone.
        scope.spawn(move || while rustix::net::send(&kernel, &babble, SendFlags::NOSIGNAL).is_ok() {});
        let (outcome, sockets) = ask(&mut channel);
        drop(channel);
        let Err(Failure::Broken(SocketTableError::Timeout { waited })) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(waited == SHORT && sockets > 1);
    });
}

#[test]
fn questions_have_the_kernels_form() {
    let name = Name {
        family: AF_INET,
        id: netlink_packet_sock_diag::inet::SocketId {
            source_port: 0x1234,
            destination_port: 80,
            source_address: [127, 0, 0, 1].into(),
            destination_address: [127, 0, 0, 2].into(),
            interface_id: 3,
            cookie: [1, 2, 3, 4, 5, 6, 7, 8],
        },
    };
    let bytes = encode(&Question::Destroy(name), 9);
    let mut expected = message(21, 5, 9, &[2, 6, 2, 0]);
    expected.extend(0xffe_u32.to_ne_bytes());
    expected.extend([0x12, 0x34, 0, 80, 127, 0, 0, 1]);
    expected.extend([0; 12]);
    expected.extend([127, 0, 0, 2]);
    expected.extend([0; 12]);
    expected.extend(3_u32.to_ne_bytes());
    expected.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    let length = u32::try_from(expected.len()).unwrap();
    expected.splice(..4, length.to_ne_bytes());
    assert_eq!(bytes, expected);
}
