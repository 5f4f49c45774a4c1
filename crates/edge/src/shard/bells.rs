//! The part of a shard's loop that no event of the kernel starts: pipes between the streams of
//! HTTP/2 and those who serve them or carry them have rung.

use evener_net::{Ring, Socket};

use super::{SessionKey, Shard};
use crate::core::Owner;
use crate::hedge;
use crate::http2::{self, upstream};
use crate::session::Session;

/// How often bells are answered before the kernel is asked again.
const RUNG_ROUNDS_MAX: usize = 16;

impl Shard {
    /// Drives what the ends of pipes have rung for: first the sessions of streams, then their
    /// carriers, so that what many streams have to say leaves in one write.
    pub(super) fn answer_bells(&mut self) {
        for _ in 0..RUNG_ROUNDS_MAX {
            self.open_streams();
            let mut rung = std::mem::take(&mut self.rung);
            self.core.bells.take(&mut rung);
            self.rung_left = !rung.is_empty();
            let (mut carriers, mut shared) = (Vec::new(), Vec::new());
            for ring in &rung {
                let key = SessionKey {
                    index: ring.index,
                    serial: ring.serial,
                };
                if ring.table == http2::UPSTREAMS {
                    if upstream::note_ring(&mut self.core, ring) && !shared.contains(&ring.index) {
                        shared.push(ring.index);
                    }
                    continue;
                }
                let Some(session) = self.sessions.by_key(key) else {
                    continue;
                };
                if let Some(http2) = &mut session.http2 {
                    if http2.note_ring(ring.part) {
                        carriers.push(key);
                    }
                    continue;
                }
                session.socket.note_ring();
                if let Some(exchange) = session.exchange.as_mut() {
                    if let Some(upstream) = exchange.upstream.as_mut() {
                        upstream.socket.note_ring();
                    }
                    if exchange.race.is_some() {
                        hedge::note_rings(exchange);
                    }
                }
                session.output_moved_ms = self.core.now_ns / 1_000_000;
                self.drive(key.index);
            }
            self.rung = rung;
            for index in shared {
                self.drive_shared(index);
            }
            for key in carriers {
                if self.sessions.by_key(key).is_some() {
                    self.drive(key.index);
                }
            }
            if !self.rung_left && self.core.opening.is_empty() {
                return;
            }
        }
    }

    /// Moves a connection on that many requests share.
    pub(super) fn drive_shared(&mut self, index: usize) {
        if upstream::drive(&mut self.core, index) {
            // Others come first.
            upstream::come_back(&self.core, index);
        }
    }

    /// Makes a session of each stream that clients have opened, and lets it begin.
    fn open_streams(&mut self) {
        for opening in std::mem::take(&mut self.core.opening) {
            let (entry, key) = self.sessions.vacant();
            let token = self.core.tokens.assign(Owner::Downstream(key.index));
            opening.end.answer_to(Ring {
                index: key.index,
                serial: key.serial,
                part: 0,
                table: http2::SESSIONS,
            });
            let socket = Socket::piped(opening.end, token);
            let (place, peer) = (opening.listener, opening.peer);
            let session = Session::new(key, place, socket, peer, self.core.now_ms());
            entry.insert(session).claims = opening.claims;
            self.core.pipes += 1;
            self.drive(key.index);
        }
    }
}
