//! Consistent hashing on a ring of points: nginx's `hash KEY consistent` (ketama, compatible with
//! Cache::Memcached::Fast), and consistent hashing with bounded loads on the same ring.

use alloc::vec::Vec;

use super::Members;
use super::crc32::Crc32;
use super::hashed::MISSES_MAX;
use super::levels::Table;
use super::member::Member;
use super::picking::{Picking, Request};

/// Points on the ring for each unit of weight.
const POINTS: u32 = 160;

/// Where a server stands on the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    hash: u32,
    /// The first member with that server.
    member: u32,
}

/// The ring of one level.
pub(super) fn build<K>(list: &[Member<K>], level: usize) -> Vec<Point> {
    let mut points = Vec::new();
    for member in list.iter().filter(|member| member.level == level) {
        let (host, port) = split(&member.server);
        let base = Crc32::new()
            .with(host.as_bytes())
            .with(&[0])
            .with(port.as_bytes());
        let mut hash = 0u32;
        for _ in 0..member.weight.saturating_mul(POINTS) {
            hash = base.with(&hash.to_le_bytes()).value();
            points.push(Point {
                hash,
                member: member.twin as u32,
            });
        }
    }
    points.sort_by_key(|point| point.hash);
    points.dedup_by_key(|point| point.hash);
    points
}

/// Host and port as nginx takes a server's name apart.
fn split(server: &str) -> (&str, &str) {
    if let Some(prefix) = server.get(..5)
        && prefix.eq_ignore_ascii_case("unix:")
    {
        return (&server[5..], "");
    }
    match server.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (server, ""),
    }
}

/// The first point at or after a hash; the number of points if there is none.
fn find(points: &[Point], hash: u32) -> usize {
    points.partition_point(|point| point.hash < hash)
}

impl<K> Members<K> {
    fn ring(&self, level: usize) -> &[Point] {
        match &self.levels[level].table {
            Table::Ring(points) => points,
            _ => &[],
        }
    }

    pub(super) fn pick_ring(
        &mut self,
        level: usize,
        request: &Request<'_>,
        picking: &mut Picking,
    ) -> Option<usize> {
        if picking.misses > MISSES_MAX || self.levels[level].size < 2 || request.key.is_empty() {
            return self.pick_smooth(level);
        }
        if !picking.hashed {
            let hash = Crc32::new().with(request.key).value();
            picking.hash = find(self.ring(level), hash) as u32;
            picking.hashed = true;
        }
        loop {
            let points = self.ring(level);
            let twin = points[picking.hash as usize % points.len()].member as usize;
            let takes_part = |member: &Member<K>| {
                member.level == level && member.twin == twin && member.is_open()
            };
            if let Some(index) = self.smooth(twin, takes_part) {
                return Some(index);
            }
            picking.hash = picking.hash.wrapping_add(1);
            picking.misses += 1;
            if picking.misses > MISSES_MAX {
                return self.pick_smooth(level);
            }
        }
    }

    /// The first member from the key's point on that stays within its bound: its share, by weight,
    /// of all requests in flight and this one, and so many percent more.
    pub(super) fn pick_bounded(
        &mut self,
        level: usize,
        request: &Request<'_>,
        over_percent: u32,
    ) -> Option<usize> {
        if request.key.is_empty() {
            return self.pick_smooth(level);
        }
        let mut in_flight = 1u64;
        let mut weight = 0u64;
        for index in self.open_in(level) {
            in_flight += u64::from(self.list[index].in_flight);
            weight += u64::from(self.list[index].weight);
        }
        let parts = u128::from(in_flight) * (100 + u128::from(over_percent));
        let whole = u128::from(weight) * 100;
        let has_room = |member: &Member<K>| {
            let bound = (parts * u128::from(member.weight)).div_ceil(whole);
            member.level == level && member.is_open() && u128::from(member.in_flight) < bound
        };
        let points = self.ring(level);
        let start = find(points, Crc32::new().with(request.key).value());
        let mut last = None;
        for step in 0..points.len() {
            let twin = points[(start + step) % points.len()].member as usize;
            if last == Some(twin) {
                continue;
            }
            last = Some(twin);
            let room = |member: &Member<K>| member.twin == twin && has_room(member);
            if let Some(index) = self.list.iter().position(room) {
                return Some(index);
            }
        }
        self.list.iter().position(has_room)
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn names_are_taken_apart_as_nginx_does() {
        assert_eq!(split("127.0.0.1:8101"), ("127.0.0.1", "8101"));
        assert_eq!(split("localhost"), ("localhost", ""));
        assert_eq!(split("unix:/run/app.sock"), ("/run/app.sock", ""));
        assert_eq!(split("UNIX:/a:1"), ("/a:1", ""));
        assert_eq!(split("[::1]:80"), ("[::1]", "80"));
        assert_eq!(split("[::1]"), ("[::1]", ""));
    }
}
