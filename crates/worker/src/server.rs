//! The server as Python sees it: the loop's callbacks, tasks, and the calls of its life cycle.
//!
//! Everything that runs Python code on behalf of the core is done here, in `Server::apply`, when
//! the core's lock is free. When to drain and when to give up is decided in `evener/worker.py`.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::time::Duration;

use evener_vitals::{Page, State, monotonic_ns};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::awaitable::Done;
use crate::core::{Core, Limits};
use crate::effects::{Effects, StartRun};
use crate::lock;
use crate::run::Run;
use crate::scope::{Ends, Scopes};
use crate::system::{self, Address};
use crate::vitals::Pulse;

/// Connections taken off the backlog in one pass.
const ACCEPTS_MAX: usize = 64;

/// An ASGI server on one event loop.
#[pyclass(frozen, weakref, module = "evener._worker")]
#[derive(Debug)]
pub struct Server {
    pub(crate) core: Mutex<Core>,
    pub(crate) scopes: Scopes,
    pub(crate) app: Py<PyAny>,
    pub(crate) done: Py<Done>,
    event_loop: Py<PyAny>,
    /// `asyncio.Task`.
    task: Py<PyAny>,
    /// Its keyword arguments.
    task_options: Py<PyDict>,
    /// Whether a task takes its first step when it is made.
    eager: bool,
    /// `loop.call_soon` in the server's own context.
    call_soon: Py<PyAny>,
    own_context: Py<PyDict>,
    create_future: Py<PyAny>,
    /// Called with the scope and the exception when the application fails.
    on_error: Py<PyAny>,
    /// Called with `"limit"`, `"drained"` or `"accept"` when that has come about.
    on_event: Py<PyAny>,
    ends: EndsTemplate,
}

/// What is known about both ends before anyone connects.
#[derive(Debug)]
struct EndsTemplate {
    edge: bool,
    unix: bool,
    /// The address to show as the server's, if it is not the listener's.
    server: Py<PyAny>,
}

#[pymethods]
impl Server {
    /// A server for `app` that accepts from the listening socket `listener`.
    #[new]
    #[pyo3(signature = (app, *, event_loop, listener, page=None, root_path="", state=None,
        server=None, trusted=None, keep_alive=0.0, requests_max=0,
        message_bytes_max=16_777_216, deflate=true, ping_interval=0.0, ping_timeout=0.0,
        on_error, on_event))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        app: Py<PyAny>,
        event_loop: Bound<'_, PyAny>,
        listener: i32,
        page: Option<i32>,
        root_path: &str,
        state: Option<Py<PyDict>>,
        server: Option<Py<PyAny>>,
        trusted: Option<bool>,
        keep_alive: f64,
        requests_max: u64,
        message_bytes_max: usize,
        deflate: bool,
        ping_interval: f64,
        ping_timeout: f64,
        on_error: Py<PyAny>,
        on_event: Py<PyAny>,
    ) -> PyResult<Server> {
        let limits = Limits {
            keep_alive_ns: nanoseconds(keep_alive)?,
            requests_max,
            message_bytes_max,
            deflate,
            ping_interval_ns: nanoseconds(ping_interval)?,
            ping_timeout_ns: nanoseconds(ping_timeout)?,
        };
        let address = system::address(listener, true);
        let unix = matches!(address, Some(Address::Unix(_)));
        let server = match server {
            Some(server) => server,
            None => shown(py, address)?,
        };
        let ends = EndsTemplate {
            edge: trusted.unwrap_or(unix),
            unix,
            server,
        };
        let listener = system::duplicate(listener)?;
        system::set_non_blocking(std::os::fd::AsFd::as_fd(&listener))?;
        let pulse = Pulse::new(page.map(open_page).transpose()?)?;
        let core = Core::new(Some(listener), pulse, limits)?;
        let asyncio = py.import("asyncio")?;
        let eager = py.version_info() >= (3, 12);
        let task_options = PyDict::new(py);
        task_options.set_item("loop", &event_loop)?;
        if eager {
            task_options.set_item("eager_start", true)?;
        }
        let context = py.import("contextvars")?.call_method0("copy_context")?;
        let own_context = PyDict::new(py);
        own_context.set_item("context", context)?;
        Ok(Server {
            core: Mutex::new(core),
            scopes: Scopes::new(py, root_path.to_owned(), state)?,
            app,
            done: Py::new(py, Done)?,
            task: asyncio.getattr("Task")?.unbind(),
            task_options: task_options.unbind(),
            eager,
            call_soon: event_loop.getattr("call_soon")?.unbind(),
            own_context: own_context.unbind(),
            create_future: event_loop.getattr("create_future")?.unbind(),
            event_loop: event_loop.unbind(),
            on_error,
            on_event,
            ends,
        })
    }

    /// Starts to serve on the running loop.
    fn start(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let server = slf.get();
        let descriptor = {
            let mut core = lock(&server.core);
            core.pulse.set_state(State::Ready);
            core.epoll.raw()
        };
        let callback = slf.getattr(intern!(py, "on_ready"))?;
        server
            .event_loop
            .bind(py)
            .call_method1("add_reader", (descriptor, callback))?;
        Ok(())
    }

    /// The loop's callback: serves everything that is ready.
    fn on_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut effects = Effects::default();
        lock(&slf.get().core).pass(slf.py(), &mut effects);
        Server::apply(slf, effects)
    }

    /// The loop's callback at the end of a turn: sends what was left for it.
    fn on_turn_end(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut effects = Effects::default();
        {
            let mut core = lock(&slf.get().core);
            core.batch_ns = None;
            core.flush_dirty(slf.py(), &mut effects);
        }
        Server::apply(slf, effects)
    }

    /// Takes nothing new: what has connected is still served, idle connections are closed.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        while Server::accept(slf)? == ACCEPTS_MAX {}
        let mut effects = Effects::default();
        {
            let mut core = lock(&slf.get().core);
            core.pulse.set_state(State::Draining);
            core.stop_listening();
            core.drain(py, &mut effects);
        }
        Server::apply(slf, effects)
    }

    /// Closes up to `most` open WebSockets with `code`; returns how many are still open.
    fn close_websockets(
        slf: &Bound<'_, Self>,
        most: usize,
        code: u16,
        reason: &str,
    ) -> PyResult<usize> {
        let py = slf.py();
        let mut effects = Effects::default();
        let left = {
            let mut core = lock(&slf.get().core);
            let open = core.open_sockets();
            for place in open.iter().take(most) {
                core.close_socket(py, *place, code, reason, &mut effects);
            }
            open.len().saturating_sub(most)
        };
        Server::apply(slf, effects)?;
        Ok(left)
    }

    /// Hangs up on everyone: applications that still run see their clients disconnect.
    fn disconnect_all(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut effects = Effects::default();
        lock(&slf.get().core).disconnect_all(&mut effects);
        Server::apply(slf, effects)
    }

    /// The tasks that still run the application.
    fn tasks(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        let core = lock(&self.core);
        core.runs
            .iter()
            .filter_map(|(_, running)| running.task.as_ref().map(|task| task.clone_ref(py)))
            .collect()
    }

    /// Requests and WebSockets that still run, and responses that are still being sent.
    #[getter]
    fn busy(&self) -> usize {
        lock(&self.core).busy()
    }

    /// Requests and WebSockets started so far.
    #[getter]
    fn started(&self) -> u64 {
        lock(&self.core).started
    }

    /// Requests and WebSockets in flight.
    #[getter]
    fn in_flight(&self) -> u32 {
        lock(&self.core).pulse.in_flight()
    }

    /// Open connections.
    #[getter]
    fn connections(&self) -> usize {
        lock(&self.core).connections.len()
    }

    /// Stops serving for good.
    fn stop(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let server = slf.get();
        let mut effects = Effects::default();
        let descriptor = {
            let mut core = lock(&server.core);
            core.stop_listening();
            core.disconnect_all(&mut effects);
            core.pulse.set_state(State::Gone);
            core.epoll.raw()
        };
        server
            .event_loop
            .bind(py)
            .call_method1("remove_reader", (descriptor,))?;
        Server::apply(slf, effects)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for object in [
            &self.app,
            &self.event_loop,
            &self.task,
            &self.call_soon,
            &self.create_future,
            &self.on_error,
            &self.on_event,
            &self.ends.server,
        ] {
            visit.call(object)?;
        }
        visit.call(&self.task_options)?;
        visit.call(&self.own_context)?;
        for object in self.scopes.held() {
            visit.call(object)?;
        }
        // If the core is locked the collector came in the middle of its use: the objects then
        // count as held from outside, and the next collection sees them.
        if let Ok(core) = self.core.try_lock() {
            for (_, connection) in &core.connections {
                for future in connection.readers.iter().chain(&connection.writers) {
                    visit.call(future)?;
                }
            }
            for (_, running) in &core.runs {
                visit.call(&running.task)?;
            }
        }
        Ok(())
    }
}

impl Server {
    /// Does what the core has left to be done without its lock.
    pub(crate) fn apply(slf: &Bound<'_, Self>, effects: Effects) -> PyResult<()> {
        let py = slf.py();
        let server = slf.get();
        for future in &effects.wake {
            let future = future.bind(py);
            if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
                future.call_method1(intern!(py, "set_result"), (py.None(),))?;
            }
        }
        if effects.flush_wanted {
            server.call_later(slf, intern!(py, "on_turn_end"))?;
        }
        if effects.pass_wanted {
            server.call_later(slf, intern!(py, "on_ready"))?;
        }
        if !effects.starts.is_empty() {
            Server::start_runs(slf, &effects.starts)?;
        }
        if effects.accept {
            Server::accept(slf)?;
        }
        if effects.limit_reached {
            server.on_event.call1(py, ("limit",))?;
        }
        if effects.drained {
            server.on_event.call1(py, ("drained",))?;
        }
        Ok(())
    }

    fn call_later(
        &self,
        slf: &Bound<'_, Self>,
        name: &Bound<'_, pyo3::types::PyString>,
    ) -> PyResult<()> {
        let py = slf.py();
        let callback = slf.getattr(name)?;
        self.call_soon
            .bind(py)
            .call((callback,), Some(self.own_context.bind(py)))?;
        Ok(())
    }

    /// Makes a task for each request; with several, their responses leave together.
    fn start_runs(slf: &Bound<'_, Self>, starts: &[StartRun]) -> PyResult<()> {
        let py = slf.py();
        let server = slf.get();
        let several = starts.len() > 1;
        if several {
            lock(&server.core).batch_ns = Some(monotonic_ns());
        }
        let event_loop = server.event_loop.bind(py);
        // Tools that watch tasks set a factory, and want to see these tasks too.
        let factory = event_loop.call_method0(intern!(py, "get_task_factory"))?;
        for start in starts {
            let run = Bound::new(py, Run::new(slf.clone().unbind(), start.place, start.run))?;
            let task = if factory.is_none() {
                server
                    .task
                    .bind(py)
                    .call((run,), Some(server.task_options.bind(py)))?
            } else {
                event_loop.call_method1(intern!(py, "create_task"), (run,))?
            };
            let mut core = lock(&server.core);
            // An eager task may be over already.
            if let Some(running) = core.runs.get_mut(start.run)
                && running.place == start.place
            {
                running.task = Some(task.unbind());
            }
        }
        match (several, server.eager && factory.is_none()) {
            (true, true) => Server::on_turn_end(slf),
            // It runs after the first steps of all these tasks, in the same turn of the loop.
            (true, false) => server.call_later(slf, intern!(py, "on_turn_end")),
            (false, _) => Ok(()),
        }
    }

    /// Takes what is in the backlog, up to a bound; returns how many connections it took.
    fn accept(slf: &Bound<'_, Self>) -> PyResult<usize> {
        let py = slf.py();
        let server = slf.get();
        let Some(listener) = lock(&server.core).listener() else {
            return Ok(0);
        };
        for taken in 0..ACCEPTS_MAX {
            let fd = match system::accept(listener) {
                Ok(Some(fd)) => fd,
                Ok(None) => return Ok(taken),
                Err(error) => {
                    lock(&server.core).pause_accepting();
                    let error = PyErr::from(error);
                    server.on_event.call1(py, ("accept", error.value(py)))?;
                    return Ok(taken);
                }
            };
            let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
            let template = &server.ends;
            let client = if template.unix {
                py.None()
            } else {
                system::set_no_delay(raw);
                shown(py, system::address(raw, false))?
            };
            let ends = Ends {
                edge: template.edge,
                unix: template.unix,
                client,
                server: template.server.clone_ref(py),
            };
            let mut effects = Effects::default();
            lock(&server.core).accepted(fd, ends, &mut effects);
            Server::apply(slf, effects)?;
        }
        Ok(ACCEPTS_MAX)
    }

    pub(crate) fn new_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.create_future.bind(py).call0()
    }

    /// Tells Python that the application has failed.
    pub(crate) fn report(
        &self,
        py: Python<'_>,
        scope: Option<&Py<PyDict>>,
        error: &PyErr,
    ) -> PyResult<()> {
        // As a value it has its traceback, which otherwise lies beside it.
        let error = error.clone_ref(py).into_value(py);
        self.on_error.call1(py, (scope, error)).map(|_| ())
    }
}

/// An address as the scope shows it.
fn shown(py: Python<'_>, address: Option<Address>) -> PyResult<Py<PyAny>> {
    let pair = match address {
        Some(Address::Ip(host, port)) => (host, port).into_pyobject(py)?,
        Some(Address::Unix(path)) => (path, py.None()).into_pyobject(py)?,
        None => return Ok(py.None()),
    };
    Ok(pair.cast_into::<PyTuple>()?.into_any().unbind())
}

fn open_page(descriptor: i32) -> PyResult<Page> {
    if descriptor < 0 {
        return Err(PyValueError::new_err("a descriptor must not be negative"));
    }
    // SAFETY: the descriptor is non-negative; if it is not open the first call on it says so, and
    // it is not used after this.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    Page::open(borrowed).map_err(|error| PyOSError::new_err(error.to_string()))
}

fn nanoseconds(seconds: f64) -> PyResult<u64> {
    let duration = Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err("a time must be a number of seconds, not negative"))?;
    u64::try_from(duration.as_nanos())
        .map_err(|_| PyValueError::new_err("a time must be less than 500 years"))
}
