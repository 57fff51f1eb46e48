//! Passing open descriptors over a Unix socket (SCM_RIGHTS, unix(7)), on blocking sockets.
//! A frame's descriptors travel beside its first bytes.

use super::wire;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The kernel's own bound on one message (SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 253;

/// Sends the first part of `bytes` with `descriptors`; gives how many bytes went.
///
/// # Errors
/// As sendmsg(2); `WouldBlock` on a socket that does not block.
pub fn send_first(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many listeners for one message"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Sends a whole frame with its descriptors.
///
/// # Errors
/// The socket broke.
pub fn send_frame(
    mut socket: &UnixStream,
    body: wire::Body,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = wire::encode(body);
    let sent = send_first(socket, &bytes, descriptors)?;
    socket.write_all(&bytes[sent..])
}

/// The next frame, and the descriptors that came with it (close-on-exec).
///
/// # Errors
/// The socket ended, broke or timed out, or something else talks on it.
pub fn receive_frame(socket: &UnixStream) -> io::Result<(Option<wire::Body>, Vec<OwnedFd>)> {
    let mut descriptors = Vec::new();
    let mut header = [0; wire::HEADER_BYTES];
    receive_exact(socket, &mut header, &mut descriptors)?;
    let mut bytes = vec![0; wire::frame_length(header)?];
    receive_exact(socket, &mut bytes, &mut descriptors)?;
    Ok((wire::decode(&bytes)?, descriptors))
}

fn receive_exact(socket: &UnixStream, mut into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<()> {
    while !into.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, flags) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into = &mut into[received..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn passed_listener_is_the_same_listener() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let body = wire::Body::Ping(wire::Number { value: 5 });
        send_frame(&ours, body.clone(), &[listener.as_fd()]).unwrap();
        let (received, mut descriptors) = receive_frame(&theirs).unwrap();
        assert_eq!(received, Some(body));
        let passed = TcpListener::from(descriptors.pop().unwrap());
        assert_eq!(passed.local_addr().unwrap(), listener.local_addr().unwrap());
        drop(ours);
        assert!(receive_frame(&theirs).is_err());
    }
}
