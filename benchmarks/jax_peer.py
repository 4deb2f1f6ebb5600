"""The JAX side of sampling.py, predict.py and airfoil.py, in an interpreter of its own: NumPyro and sklearn-contrib-bde.

They start it and ask it, a line of JSON for a question and a line for the answer, so that both sides take turns in one run;
arrays go through files. It needs jax and numpyro, for airfoil.py sklearn-contrib-bde, and neither torch nor bayesreg:

    python -m venv peer && peer/bin/pip install jax numpyro sklearn-contrib-bde
    python benchmarks/sampling.py --peer peer/bin/python
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HOW = "make an environment with `pip install jax numpyro sklearn-contrib-bde` and pass its interpreter: --peer PYTHON"
ONE_CORE = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "TQDM_DISABLE": "1",
}


def stay_on(core: int | None) -> int | None:
    """Bind this process, and those that it starts, to one core: one thread is then one core, whoever counts threads."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {core})
    return core


class Peer:
    """The other interpreter, as whoever asks it sees it.

    Args:
        python: The interpreter; None for this one.
        wanted: Packages that it must have.
    """

    def __init__(self, python: str | None, *wanted: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[str] | None = None
        if python is None and not all(importlib.util.find_spec(name) for name in wanted):
            self.missing = f"{' and '.join(wanted)} are not installed here, and their rows are left out: {HOW}."
            return
        self._process = subprocess.Popen(
            [python or sys.executable, __file__, "--answer", *wanted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_CORE},
        )
        try:
            self.versions = self.ask("versions")["versions"]
            self.missing = ""
        except RuntimeError as failure:
            self.missing = f"the peer's rows are left out: {failure}; {HOW}."

    def ask(self, what: str, arrays: dict[str, np.ndarray] | None = None, **words: Any) -> dict[str, Any]:
        """What the other side answers; arrays of the answer are read from its file.

        Raises:
            RuntimeError: If it fails.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError(f"{what}: there is no other interpreter")
        path = Path(self._folder.name)
        if arrays is not None:
            np.savez(path / "question.npz", **arrays)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"what": what, "folder": str(path), "words": words}) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{what}: the other interpreter ended with status {process.wait()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise RuntimeError(f"{what}: {answer['failed']}")
        if answer.pop("arrays", False):
            with np.load(path / "answer.npz") as found:
                answer |= {name: found[name] for name in found.files}
        return answer

    def close(self) -> None:
        """End the other side, if there is one."""
        if self._process is not None:
            self._process.communicate()
        self._folder.cleanup()


# ── what the other side does ──


def forward(u: Any, x: Any, widths: list[int], activation: Callable[[Any], Any]) -> Any:
    """A multilayer perceptron whose weights lie in one vector, layer by layer, weight (out, in) and then bias."""
    at, hidden = 0, x
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weight = u[at : at + inputs * outputs].reshape(outputs, inputs)
        bias = u[at + inputs * outputs : at + (inputs + 1) * outputs]
        at, hidden = at + (inputs + 1) * outputs, hidden @ weight.T + bias
        hidden = activation(hidden) if i < len(widths) - 2 else hidden
    return hidden


class Answers:
    """Each question is a method; what was compiled for one stays for the next."""

    def __init__(self) -> None:
        self.gradient_of: Any = None
        self.moments_of: dict[Any, Any] = {}

    def versions(self) -> dict[str, Any]:
        """Of what is installed."""
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in ("jax", "numpyro", "sklearn-contrib-bde"):
            with contextlib.suppress(PackageNotFoundError):
                found[name] = version(name)
        return {"versions": ", ".join(f"{name} {said}" for name, said in found.items())}

    def gradient(self, arrays: dict[str, Any], widths: list[int], calls: int) -> dict[str, Any]:
        """Seconds of one value_and_grad of the log-joint, vmapped over members and jitted."""
        import jax
        import jax.numpy as jnp

        if self.gradient_of is None:
            x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])

            def log_joint(u: Any) -> Any:
                f, s = forward(u, x, widths, jax.nn.relu).T
                rows = -0.5 * ((y - f) * jnp.exp(-s)) ** 2 - s - 0.5 * jnp.log(2 * jnp.pi)
                return rows.sum() - 0.5 * (u * u).sum() - 0.5 * len(u) * jnp.log(2 * jnp.pi)

            self.gradient_of = jax.jit(jax.vmap(jax.value_and_grad(log_joint)))
            self.u = jnp.asarray(arrays["u"])
        started = time.perf_counter()
        for _ in range(calls):
            value, gradient = jax.block_until_ready(self.gradient_of(self.u))
        spent = (time.perf_counter() - started) / calls
        return {"seconds": spent, "save": {"value": np.asarray(value), "gradient": np.asarray(gradient)}}

    def predict(self, arrays: dict[str, Any], widths: list[int], calls: int) -> dict[str, Any]:
        """Seconds for mean and variance over draws (S, P) with a log noise scale at the end, in the faster of two ways."""
        import jax
        import jax.numpy as jnp

        u, x = jnp.asarray(arrays["u"]), jnp.asarray(arrays["x"])

        def moments(over: Callable[..., Any]) -> Any:
            def found(u: Any, x: Any) -> Any:
                f = over(lambda one: forward(one, x, widths, jax.nn.relu)[:, 0], u)
                return f.mean(0), f.var(0) + jnp.exp(2 * u[:, -1]).mean()

            return jax.jit(found)

        if x.shape not in self.moments_of:
            ways = [moments(jax.lax.map), moments(lambda f, u: jax.vmap(f)(u))]
            spent = []
            for way in ways:
                jax.block_until_ready(way(u, x))
                started = time.perf_counter()
                jax.block_until_ready(way(u, x))
                spent.append(time.perf_counter() - started)
            self.moments_of[x.shape] = ways[spent.index(min(spent))]
        started = time.perf_counter()
        for _ in range(calls):
            mean, variance = jax.block_until_ready(self.moments_of[x.shape](u, x))
        spent = (time.perf_counter() - started) / calls
        return {"seconds": spent, "save": {"mean": np.asarray(mean), "variance": np.asarray(variance)}}

    def nuts(
        self, arrays: dict[str, Any], widths: list[int], noise: float | None, chains: int, method: str, draws: int, seed: int
    ) -> dict[str, Any]:
        """NumPyro's NUTS with its defaults; seconds of compiling by JAX apart. No noise: logistic regression."""
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as npd
        from numpyro.infer import MCMC, NUTS

        size = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))

        def program(x: Any, y: Any) -> None:
            u = numpyro.sample("u", npd.Normal(0, 1).expand([size]).to_event(1))
            f = forward(u, x, widths, jnp.tanh)[:, 0]
            numpyro.sample("y", npd.Bernoulli(logits=f) if noise is None else npd.Normal(f, noise), obs=y)

        words = {"num_warmup": draws, "num_samples": draws, "num_chains": chains, "chain_method": method}
        machine = MCMC(NUTS(program), progress_bar=False, **words)
        x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
        compiled: list[float] = []

        def hear(event: str, seconds: float, **_: Any) -> None:
            if event.endswith(("backend_compile_duration", "jaxpr_to_mlir_module_duration")):
                compiled.append(seconds)

        jax.monitoring.register_event_duration_secs_listener(hear)
        started = time.perf_counter()
        machine.run(jax.random.PRNGKey(seed), x, y, extra_fields=("num_steps",))
        u = jax.block_until_ready(machine.get_samples(group_by_chain=True)["u"])
        whole, compiling = time.perf_counter() - started, sum(compiled)
        steps = float(machine.get_extra_fields()["num_steps"].mean())
        return {"whole": whole, "compiling": compiling, "steps": steps, "save": {"u": np.asarray(u)}}

    def bde(self, arrays: dict[str, Any], **words: Any) -> dict[str, Any]:
        """A fit of BdeRegressor, and its raw predictions of the test rows: (members, draws, rows, mean and sd)."""
        import jax
        from bde import BdeRegressor

        started = time.perf_counter()
        fitted = BdeRegressor(**words)
        fitted.fit(x=arrays["x"], y=arrays["y"])
        jax.block_until_ready(fitted.positions_eT_)
        spent = time.perf_counter() - started
        raw = np.asarray(fitted.predict(arrays["x_test"], raw=True))
        mean, sd = (np.asarray(part) for part in fitted.predict(arrays["x_test"], mean_and_std=True))
        return {"seconds": spent, "save": {"raw": raw, "mean": mean, "sd": sd}}


def answer(wanted: list[str]) -> None:
    """Answer until there are no more questions."""
    out, sys.stdout = sys.stdout, sys.stderr  # what packages print is no answer
    answers = Answers()
    for line in sys.stdin:
        question = json.loads(line)
        folder, words = Path(question["folder"]), question["words"]
        try:
            for name in wanted:
                importlib.import_module(name)
            if (folder / "question.npz").exists() and question["what"] != "versions":
                with np.load(folder / "question.npz") as arrays:
                    words["arrays"] = dict(arrays)
            said = getattr(answers, question["what"])(**words)
            if (arrays := said.pop("save", None)) is not None:
                np.savez(folder / "answer.npz", **arrays)
                said["arrays"] = True
        except Exception as failure:  # whatever it is, the other side tells it
            said = {"failed": f"{type(failure).__name__}: {failure}"}
        out.write(json.dumps(said) + "\n")
        out.flush()


if __name__ == "__main__":
    if "--answer" in sys.argv:
        answer(sys.argv[sys.argv.index("--answer") + 1 :])
    else:
        print("The JAX side of sampling.py, predict.py and airfoil.py, which start it; it prints nothing by itself.")
