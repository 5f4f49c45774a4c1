//! The coroutine of a request's task: claims the request, calls the application, and sees to its
//! end.
//!
//! It stands between the task and the application's own coroutine and hands everything through.
//! So no callback has to be added to the task, the request is claimed and its scope built only
//! when its turn has come, and what the application raises is seen here.

use std::sync::Mutex;

use pyo3::exceptions::{PyException, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::awaitable::thrown;
use crate::effects::{Effects, Place};
use crate::errors::tells_of_disconnect;
use crate::exchange::{Exchange, owed};
use crate::http::Abandoned;
use crate::lock;
use crate::scope::Request;
use crate::server::Server;
use crate::step::{Step, step, steps_of};

/// How the application came to its end.
enum End {
    Returned,
    Raised(PyErr),
    /// It never ran.
    Dropped,
}

#[derive(Debug)]
enum State {
    /// The first step is still to come.
    Ready,
    Running {
        coroutine: Py<PyAny>,
        scope: Py<PyDict>,
    },
    Over,
}

/// The coroutine of one request's task.
#[pyclass(frozen, module = "evener._worker")]
#[derive(Debug)]
pub struct Run {
    server: Py<Server>,
    place: Place,
    key: usize,
    state: Mutex<State>,
}

impl Run {
    pub(crate) fn new(server: Py<Server>, place: Place, key: usize) -> Run {
        Run {
            server,
            place,
            key,
            state: Mutex::new(State::Ready),
        }
    }
}

#[pymethods]
impl Run {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let coroutine = match &*lock(&self.state) {
            State::Running { coroutine, .. } => Some(coroutine.clone_ref(py)),
            State::Ready => None,
            State::Over => return Ok(None),
        };
        let coroutine = match coroutine {
            Some(coroutine) => {
                lock(&self.server.get().core).pulse.enter();
                coroutine.into_bound(py)
            }
            None => match self.begin(py) {
                Ok(Some(coroutine)) => coroutine,
                Ok(None) => return self.end(py, End::Dropped),
                Err(error) => return self.end(py, End::Raised(error)),
            },
        };
        match step(&coroutine) {
            Ok(Step::Yielded(yielded)) => {
                lock(&self.server.get().core).end_step(self.place);
                Ok(Some(yielded.unbind()))
            }
            Ok(Step::Returned) => self.end(py, End::Returned),
            Err(error) => self.end(py, End::Raised(error)),
        }
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.__next__(py)?
            .ok_or_else(|| PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        let error = thrown(kind, value)?;
        let coroutine = match &*lock(&self.state) {
            State::Running { coroutine, .. } => Some(coroutine.clone_ref(py)),
            State::Ready | State::Over => None,
        };
        let Some(coroutine) = coroutine else {
            self.end(py, End::Dropped)?;
            return Err(error);
        };
        let over = || PyStopIteration::new_err(());
        match coroutine
            .bind(py)
            .call_method1(intern!(py, "throw"), (error.value(py),))
        {
            Ok(yielded) => Ok(yielded.unbind()),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                self.end(py, End::Returned)?.ok_or_else(over)
            }
            Err(error) => self.end(py, End::Raised(error))?.ok_or_else(over),
        }
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let coroutine = match &*lock(&self.state) {
            State::Running { coroutine, .. } => Some(coroutine.clone_ref(py)),
            State::Ready | State::Over => None,
        };
        if let Some(coroutine) = coroutine {
            coroutine.bind(py).call_method0(intern!(py, "close"))?;
        }
        if !matches!(*lock(&self.state), State::Over) {
            self.end(py, End::Dropped)?;
        }
        Ok(())
    }

    /// The frame of the application's coroutine, for those who look at stacks.
    #[getter]
    fn cr_frame(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.inner(py, intern!(py, "cr_frame"))
    }

    /// What the application's coroutine awaits.
    #[getter]
    fn cr_await(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.inner(py, intern!(py, "cr_await"))
    }

    /// The code of the application's coroutine.
    #[getter]
    fn cr_code(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.inner(py, intern!(py, "cr_code"))
    }

    /// Whether the application's coroutine is running just now.
    #[getter]
    fn cr_running(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.inner(py, intern!(py, "cr_running"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.server)?;
        // If the state is locked the collector came in the middle of its use: the objects then
        // count as held from outside, and the next collection sees them.
        if let Ok(state) = self.state.try_lock()
            && let State::Running { coroutine, scope } = &*state
        {
            visit.call(coroutine)?;
            visit.call(scope)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let state = self
            .state
            .try_lock()
            .map(|mut state| std::mem::replace(&mut *state, State::Over));
        drop(state);
    }
}

impl Run {
    /// Claims the request, builds its scope and calls the application. `None`: it must not run.
    fn begin<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let server = self.server.bind(py);
        let inner = server.get();
        let mut effects = Effects::default();
        let begun = lock(&inner.core).begin(py, self.place, &mut effects);
        Server::apply(server, effects)?;
        let Some(begun) = begun else { return Ok(None) };
        let request = Request {
            bytes: &begun.bytes,
            head: &begun.head,
            fields: &begun.fields,
            ends: &begun.ends,
        };
        let websocket = begun.subprotocols.is_some();
        let scope = match &begun.subprotocols {
            Some(subprotocols) => inner.scopes.websocket(py, &request, subprotocols),
            None => inner.scopes.http(py, &request),
        };
        lock(&inner.core).give_back(self.place, begun);
        let scope = scope?;
        let exchange = Exchange {
            server: server.clone().unbind(),
            place: self.place,
            websocket,
        };
        let exchange = Bound::new(py, exchange)?;
        let receive = exchange.getattr(intern!(py, "receive"))?;
        let send = exchange.getattr(intern!(py, "send"))?;
        let called = inner.app.bind(py).call1((&scope, receive, send));
        let coroutine = called.and_then(steps_of);
        let kept = coroutine
            .as_ref()
            .map_or_else(|_| py.None(), |coroutine| coroutine.clone().unbind());
        let running = State::Running {
            coroutine: kept,
            scope: scope.unbind(),
        };
        let before = std::mem::replace(&mut *lock(&self.state), running);
        drop(before);
        coroutine.map(Some)
    }

    /// The application is over: completes what it left undone, reports what it raised.
    fn end(&self, py: Python<'_>, end: End) -> PyResult<Option<Py<PyAny>>> {
        let server = self.server.bind(py);
        let state = std::mem::replace(&mut *lock(&self.state), State::Over);
        let scope = match &state {
            State::Running { scope, .. } => Some(scope.clone_ref(py)),
            State::Ready | State::Over => None,
        };
        let ran = !matches!(end, End::Dropped);
        let failed = matches!(end, End::Raised(_));
        let mut effects = Effects::default();
        let (abandoned, websocket, client_gone, running) = {
            let mut core = lock(&server.get().core);
            let connection = core.at(self.place);
            let websocket = connection
                .as_ref()
                .is_some_and(|held| held.socket.is_some());
            let client_gone = connection.is_some_and(|held| held.gone);
            let abandoned = match (ran, websocket) {
                (false, _) => core.drop_unstarted(self.place, &mut effects),
                (true, true) => core.abandon_socket(py, self.place, failed, &mut effects),
                (true, false) => core.abandon_http(py, self.place, &mut effects),
            };
            let running = core.end_run(self.key, self.place, ran, &mut effects);
            (abandoned, websocket, client_gone, running)
        };
        drop(running);
        Server::apply(server, effects)?;
        drop(state);
        match end {
            End::Dropped => Ok(None),
            End::Returned => {
                if abandoned != Abandoned::Nothing {
                    server.get().report(py, scope.as_ref(), &owed(websocket))?;
                }
                Ok(None)
            }
            // Cancellation and the like are the task's business, and the loop's.
            End::Raised(error) if !error.is_instance_of::<PyException>(py) => Err(error),
            End::Raised(error) => {
                // That the client went away is no error of the application's.
                if !(client_gone && tells_of_disconnect(py, &error)) {
                    server.get().report(py, scope.as_ref(), &error)?;
                }
                Ok(None)
            }
        }
    }

    fn inner(
        &self,
        py: Python<'_>,
        name: &Bound<'_, pyo3::types::PyString>,
    ) -> PyResult<Py<PyAny>> {
        let coroutine = match &*lock(&self.state) {
            State::Running { coroutine, .. } => coroutine.clone_ref(py),
            State::Ready | State::Over => return Ok(py.None()),
        };
        coroutine.bind(py).getattr(name).map(Bound::unbind)
    }
}
