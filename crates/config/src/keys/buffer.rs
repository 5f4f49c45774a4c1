//! Bodies that are kept until the other side can take them, and where what does not fit in memory
//! goes.

use super::key;
use crate::definition::Default::{Said, Value};
use crate::definition::Kind::{Size, SizeLimit, Text};
use crate::definition::Table;

pub(super) static BUFFER_REQUESTS: Table = Table {
    title: "buffer_requests",
    doc: "Takes the whole body of a request before an endpoint is asked for (nginx's `proxy_request_buffering`): a slow \
client then holds no endpoint, and a body of any length can be sent to another one. What came in chunks is sent on with \
a `Content-Length`, unless it ends in trailers. `Expect: 100-continue` is answered here.",
    keys: &[key(
        "memory",
        Size,
        Value("\"64k\""),
        "Bytes of each body that are kept in memory; those beyond it lie in a file.",
    )],
};

pub(super) static BUFFER_RESPONSES: Table = Table {
    title: "buffer_responses",
    doc: "Reads a response as fast as its endpoint sends it and lets the client take it at its own pace: a slow client \
then holds no endpoint. A client that keeps up gets every piece at once, so streams stay streams.",
    keys: &[
        key(
            "memory",
            Size,
            Value("\"64k\""),
            "Bytes that a client is behind which are kept in memory; those beyond it lie in a file.",
        ),
        key(
            "file",
            Size,
            Value("\"1g\""),
            "Length of the file; when it is full, the endpoint waits for the client. 0 is no file.",
        ),
    ],
};

pub(super) static SPILL: Table = Table {
    title: "[spill]",
    doc: "Where bodies lie that are kept (`buffer_requests`, `buffer_responses`) and do not fit in memory: in files \
without a name, of which nothing is left when the program ends, however it ends.",
    keys: &[
        key(
            "directory",
            Text,
            Said("`$TMPDIR`, or `/tmp`"),
            "The folder; it must be there. One in memory (tmpfs) spares no memory.",
        ),
        key(
            "total",
            SizeLimit,
            Value("\"10g\""),
            "Bytes in all of these files together. A request body beyond it is refused (507); an endpoint waits for its client.",
        ),
    ],
};
