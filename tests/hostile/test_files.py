"""Files as they come in practice: damaged, foreign, half-written, in places where nothing can be written, under links."""

import dataclasses
import errno
import importlib
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, SVI, LaplaceApproximation, LowRank, MCBatchNorm, MCDropout, MeanField
from bayesreg.model import architecture
from bayesreg.storage import files, seal

OLD, NEW = b"old", b"new"
PACKAGE = os.path.dirname(files.__file__)


def alone(code):
    """In a process of its own, which need not load all of the package."""
    code = f"import sys; sys.path.append({PACKAGE!r})\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def write(paths, force=True, contents=NEW):
    with files.replacing(paths, force=force) as handles:
        for handle in handles:
            handle.write(contents)


class TestWriting:
    def test_files_are_there_together_with_the_mode_of_the_umask(self, tmp_path):
        code = f"""
            import os; os.umask(0o027)
            from files import replacing
            with replacing([{str(tmp_path / "a")!r}, {str(tmp_path / "b")!r}], force=False) as (a, b):
                a.write(b"1"), b.write(b"2")
            assert os.umask(0) == 0o027
        """
        assert alone(code).returncode == 0
        assert [(p.name, p.read_bytes(), p.stat().st_mode & 0o777) for p in sorted(tmp_path.iterdir())] == [
            ("a", b"1", 0o640),
            ("b", b"2", 0o640),
        ]

    def test_nothing_moves_unless_all_is_written(self, tmp_path):
        (tmp_path / "a").write_bytes(OLD)

        def fails():
            with files.replacing([tmp_path / "a", tmp_path / "b"], force=True) as (a, _):
                a.write(NEW)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fails()
        assert os.listdir(tmp_path) == ["a"]
        assert (tmp_path / "a").read_bytes() == OLD

    @pytest.mark.parametrize("failing", [1, 2, 3])
    @pytest.mark.parametrize("error", [OSError("disk gone"), KeyboardInterrupt()], ids=["error", "interrupt"])
    def test_a_move_that_fails_takes_back_those_before_it(self, tmp_path, monkeypatch, failing, error):
        paths = [tmp_path / name for name in "abc"]
        paths[0].write_bytes(OLD)
        paths[2].write_bytes(OLD)
        real, calls = os.replace, []

        def replace(*arguments):
            calls.append(arguments)
            if len(calls) == failing:
                if isinstance(error, KeyboardInterrupt):  # comes when the move is done
                    real(*arguments)
                raise error
            real(*arguments)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(type(error)):
            write(paths)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "c"]
        assert [paths[0].read_bytes(), paths[2].read_bytes()] == [OLD, OLD]

    @pytest.mark.parametrize(
        ("place", "force", "message"),
        [
            ("there", False, r"there' must not exist yet; pass force=True \(--force\)"),
            ("dangling", False, r"dangling' must not exist yet; pass force=True"),
            ("no/such", True, r"the folder of '.*no/such' must exist; make it first"),
            ("there/such", True, r"the folder of '.*there/such' must exist; make it first"),
            ("folder", True, r"folder' must be the place of a file, but a folder or device is there"),
            ("device", True, r"device' must be the place of a file, but a folder or device is there"),
            ("x" * 300, True, r"a file must have a valid name, but .* has none \(File name too long\)"),
            ("nul\0", True, r"a file must have a valid name, but .* has none \(embedded null byte\)"),
        ],
    )
    def test_places_that_take_no_file(self, tmp_path, place, force, message):
        (tmp_path / "there").write_bytes(OLD)
        (tmp_path / "folder").mkdir()
        (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
        (tmp_path / "device").symlink_to("/dev/null")
        before = sorted(os.listdir(tmp_path))
        for call in (lambda: write([tmp_path / place], force), lambda: files.probe(tmp_path / place, force=force)):
            with pytest.raises(ValueError, match=message):
                call()
        assert sorted(os.listdir(tmp_path)) == before

    def test_a_folder_that_takes_no_file_is_found_out_before(self):
        with pytest.raises(ValueError, match=r"the folder of '/proc/self/post.pt' must be writable, but no file can"):
            files.probe("/proc/self/post.pt", force=False)

    def test_no_room_is_found_out_before(self, tmp_path):
        code = f"""
            import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            from files import probe
            probe({str(tmp_path / "a")!r}, force=False, room=9_000)
            probe({str(tmp_path / "a")!r}, force=False, room=11_000)
        """
        assert "ValueError: there must be room for 11,000 bytes next to" in alone(code).stderr
        assert not os.listdir(tmp_path)

    def test_a_link_is_replaced_and_not_followed(self, tmp_path):
        (tmp_path / "elsewhere").write_bytes(OLD)
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        write([tmp_path / "link"])
        assert (tmp_path / "elsewhere").read_bytes() == OLD
        assert not (tmp_path / "link").is_symlink()

    def test_another_s_file_that_came_meanwhile_is_kept(self, tmp_path):
        def late():
            with files.replacing([tmp_path / "a"], force=False) as (handle,):
                handle.write(NEW)
                (tmp_path / "a").write_bytes(OLD)

        with pytest.raises(ValueError, match="must not exist yet"):
            late()
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", OLD)]


class TestLeftovers:
    def test_those_of_dead_processes_go_and_those_of_others_stay(self, tmp_path):
        target = tmp_path / ("n" * 250)
        code = f"""
            import os, signal
            from files import replacing
            with replacing([{str(target)!r}], force=True) as (handle,):
                handle.write(b"half"), handle.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        """
        alone(code)
        (dead,) = os.listdir(tmp_path)
        start, rest = dead.rsplit(".", 2)[0], dead.rsplit(".", 2)[1]
        host, _, token = rest.split("-")
        alive = f"{start}.{host}-{os.getppid()}-{token}.part"
        ours = f"{start}.{host}-{os.getpid()}-{token}.part"  # a process that had our number before
        other_host = f"{start}.00000000-{dead.split('-')[1]}-{token}.part"
        other_file = dead.replace("nnn", "mmm", 1)
        for name in (alive, ours, other_host, other_file):
            (tmp_path / name).touch()
        with files.replacing([target], force=True) as (handle,):
            handle.write(NEW)
            write([target])  # by the way: one's own, open in another place, are no leftovers
        assert {p.name for p in tmp_path.iterdir()} == {target.name, alive, other_host, other_file}
        assert target.read_bytes() == NEW


class TestLock:
    def test_a_second_is_refused_in_this_process_and_in_another(self, tmp_path):
        path = tmp_path / "fit.pt"
        code = f"from files import locked\nwith locked({str(path)!r}, 'taken'): print('got it')"
        with files.locked(path, "taken"):
            with pytest.raises(ValueError, match=r"^taken$"), files.locked(path, "taken"):
                pass
            assert "ValueError: taken" in alone(code).stderr
        assert not os.listdir(tmp_path)
        assert alone(code).stdout == "got it\n"

    def test_a_lock_dies_with_its_process(self, tmp_path):
        path = tmp_path / "fit.pt"
        code = f"""
            import os, signal
            from files import locked
            with locked({str(path)!r}, 'taken'):
                os.kill(os.getpid(), signal.SIGKILL)
        """
        alone(code)
        assert os.listdir(tmp_path) == [".fit.pt.lock"]
        with files.locked(path, "taken"):
            pass
        assert not os.listdir(tmp_path)

    def test_a_link_in_the_lock_s_place_is_not_followed(self, tmp_path):
        (tmp_path / ".fit.pt.lock").symlink_to(tmp_path / "elsewhere")
        with (
            pytest.raises(ValueError, match="must be writable, but no file can"),
            files.locked(tmp_path / "fit.pt", ""),
        ):
            pass
        assert not (tmp_path / "elsewhere").exists()


def fitted(kind="map"):
    """A quick fit of each kind of posterior."""
    torch.manual_seed(0)
    X = torch.randn(24, 2)
    layers = {
        "noisy": [nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.1), nn.Linear(3, 1)],
        "statistics": [nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)],
    }.get(kind, [nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)])
    method = {
        "map": MAP(num_steps=20),
        "laplace": "laplace",
        "guide": MeanField(num_steps=20),
        "noisy": MCDropout(num_steps=20),
        "statistics": MCBatchNorm(12, MAP(num_steps=20), num_draws=5),
    }[kind]
    model = br.BayesianModel(nn.Sequential(*layers), priors.Normal(1.0), likelihoods.Gaussian(0.5), standardize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        return br.fit(model, X, X[:, 0].sin(), method=method, progress=False), X


def contents(posterior):
    """Everything that a posterior is, in text and bytes."""
    tensors = [*sorted(posterior.sample(3).items()), *posterior.model.module.named_buffers()]
    record = dataclasses.replace(posterior.record)
    return repr(record), [(name, tensor.dtype, tensor.numpy().tobytes()) for name, tensor in tensors]


def flipped(raw, bit):
    made = bytearray(raw)
    made[bit // 8] ^= 1 << bit % 8
    return bytes(made)


def tampered(path, change):
    """The file with other content under a seal that fits it."""
    content = torch.load(path, weights_only=True)
    found = change(content)
    with open(path, "w+b") as handle:
        seal(handle, "posterior", content.get("format", 2), content if found is None else found)


class TestDamage:
    def check(self, count, seed, tmp_path):
        posterior, _ = fitted()
        br.save(posterior, tmp_path / "p")
        raw, whole, outcomes = (tmp_path / "p").read_bytes(), contents(posterior), []
        edges = [*range(16), *range(8 * len(raw) - 8 * 110, 8 * len(raw), 40)]
        for bit in [*edges, *random.Random(seed).sample(range(8 * len(raw)), count)]:
            (tmp_path / "q").write_bytes(flipped(raw, bit))
            try:
                outcomes.append(contents(br.load(tmp_path / "q")) == whole)
            except ValueError as error:
                outcomes.append("q' must be a posterior written by bayesreg.save, but it is damaged" in str(error))
        assert all(outcomes)
        assert contents(br.load(tmp_path / "p")) == whole

    def test_a_flipped_bit_gives_the_same_posterior_or_one_sentence(self, tmp_path):
        self.check(30, 0, tmp_path)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_many_flipped_bits(self, tmp_path, seed):
        self.check(200, seed, tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda raw: raw[:-1], "something was cut off from it or added to it"),
            (lambda raw: raw[: len(raw) // 2], "something was cut off from it or added to it"),
            (lambda raw: raw[:10], "something was cut off from it or added to it"),
            (lambda raw: b"", "it is not one; check the path"),
            (lambda raw: raw + b"\n", "something was cut off from it or added to it"),
            (lambda raw: raw + raw, "it is damaged: its bytes are not those that were written"),
            (lambda raw: raw[1:], "it is damaged: its bytes are not those that were written"),
            (lambda raw: b"\0" * len(raw), "it is not one; check the path"),
            (lambda raw: raw.replace(b"format 3", b"format 4"), "it is damaged: its bytes are not those that were written"),
        ],
    )
    def test_other_damage_is_told(self, tmp_path, change, message):
        br.save(fitted()[0], tmp_path / "p")
        (tmp_path / "q").write_bytes(change((tmp_path / "p").read_bytes()))
        with pytest.raises(ValueError, match=rf"q' must be a posterior written by bayesreg.save, but .*{message}"):
            br.load(tmp_path / "q")


class TestContent:
    """What a file declares is checked also where its seal fits: other programs can write a seal."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.pop("state"), r"a saved posterior must be a dict of .*, but state missing came"),
            (lambda c: c.pop("priors"), r"a saved posterior must be a dict of .*, but priors missing came"),
            (lambda c: c.update(more=1), r"a saved posterior must be a dict of .*, but more unknown came"),
            (lambda c: c.update(format=4), r"must be a posterior written by bayesreg.save in format 3, but it is in format 4"),
            (lambda c: c.update(kind="Shape"), r"a saved posterior's kind must be one of .*, but 'Shape' came"),
            (
                lambda c: c.update(kind="Gaussian"),
                r"a saved posterior's state must be a dict of loc, factor, linearize, but loc",
            ),
            (lambda c: c.update(likelihood=3), r"a saved posterior's likelihood must be of type str, but int came"),
            (lambda c: c["state"].clear(), r"a saved posterior's state must be a dict of loc, but nothing came"),
            (lambda c: c["state"]["loc"].fill_(float("nan")), r"state's loc must be finite real numbers, but NaN or an inf"),
            (lambda c: c["state"].update(loc=torch.zeros(12)), r"loc must be a tensor of shape \(13,\), but \(12,\) came"),
            (lambda c: c["state"].update(loc=torch.zeros(1, 13)), r"loc must be a tensor of shape \(13,\), but \(1, 13\) came"),
            (lambda c: c["state"].update(loc=torch.zeros(13).long()), r"loc must be finite real numbers, but torch.int64 came"),
            (lambda c: c["state"].update(loc="x"), r"a saved posterior's state's loc must be a tensor, but str came"),
            (lambda c: c["record"].pop("seed"), r"a saved posterior's record must be a dict of .*, but seed missing came"),
            (lambda c: c["record"].update(seed="0"), r"record's seed must be of type int, but str came"),
            (lambda c: c["record"]["history"].update(steps=["a"]), r"record's history's steps must be of type list\[int\]"),
            (lambda c: c["standardization"].pop("x_mean"), r"standardization must be a dict of .*, but x_mean missing came"),
            (lambda c: c["bound"].update(num_data="many"), r"num_data must be of type int \| None, but str came"),
            (lambda c: c["bound"].pop("num_data"), r"a saved posterior's data must be a dict of .*num_data"),
            (lambda c: c.update(architecture=["Linear", {}]), r"a saved posterior's architecture must be that of its tensors"),
            (lambda c: c.update(architecture=["Secret", {}]), r"a saved posterior's architecture must be that of its tensors"),
            (
                lambda c: c.update(architecture=["Sequential", 5]),
                r"a saved posterior's architecture must be that of its tensors",
            ),
            (lambda c: [1, 2], r"must be a posterior written by bayesreg.save, but it holds something else"),
        ],
    )
    def test_what_is_not_a_posterior_is_refused(self, tmp_path, change, message):
        br.save(fitted()[0], tmp_path / "p")
        tampered(tmp_path / "p", lambda content: found if isinstance(found := change(content), list) else None)
        with pytest.raises(ValueError, match=message):
            br.load(tmp_path / "p")

    @pytest.mark.parametrize("kind", ["laplace", "guide", "noisy", "statistics"])
    def test_every_tensor_of_every_kind_is_looked_at(self, tmp_path, kind):
        posterior, X = fitted(kind)
        br.save(posterior, tmp_path / "p")
        assert br.load(tmp_path / "p").predict(X, num_samples=4).mean.equal(posterior.predict(X, num_samples=4).mean)
        names = [name for name, value in posterior.state().items() if isinstance(value, torch.Tensor) and value.dim()]
        assert names
        for name in names:
            for change in (lambda value: value * float("nan"), lambda value: value[:-1], lambda value: None):
                br.save(posterior, tmp_path / "p", force=True)
                tampered(tmp_path / "p", lambda c: c["state"].update({name: change(c["state"][name])}))  # noqa: B023
                if name == "made_of" and change(torch.zeros(1)) is not None and change(torch.zeros(1)).isnan().all():
                    continue  # at a point a draw is made of no numbers
                with pytest.raises(
                    ValueError, match=r"a saved .*'s (loc|factor|phi|made_of|found) must be|must be a dict of phi, but"
                ):
                    br.load(tmp_path / "p")

    def test_what_cannot_be_loaded_is_not_saved(self, tmp_path):
        posterior, _ = fitted()
        posterior.loc[0] = float("nan")
        with pytest.raises(ValueError, match="loc must be finite real numbers, but NaN or an infinite number came"):
            br.save(posterior, tmp_path / "p")
        assert not os.listdir(tmp_path)

    def test_a_pickle_is_refused_without_advice_to_run_it(self, tmp_path):
        (tmp_path / "plain").write_bytes(pickle.dumps(print))
        torch.save(nn.Linear(1, 1), tmp_path / "module")
        with open(tmp_path / "sealed", "w+b") as handle:
            seal(handle, "posterior", 3, {"state": print})
        for name in ("plain", "module", "sealed"):
            with pytest.raises(ValueError, match=r"must be a posterior written by bayesreg.save, but") as error:
                br.load(tmp_path / name)
            assert error.value.__suppress_context__ or error.value.__context__ is None
            assert "weights_only" not in str(error.value)
            assert "rusted" not in str(error.value)

    def test_an_older_format_is_named(self, tmp_path):
        torch.save({"format": 1, "kind": "Dirac", "state": {}}, tmp_path / "p")
        with pytest.raises(
            ValueError, match=r"it is in format 1 and this version of bayesreg reads format 3; load it with the"
        ):
            br.load(tmp_path / "p")
        with open(tmp_path / "q", "w+b") as handle:
            seal(handle, "posterior", 2, {"format": 2})  # whose certificates were sentences
        with pytest.raises(ValueError, match=r"in format 3, but it is in format 2, of another version of bayesreg; load"):
            br.load(tmp_path / "q")

    @pytest.mark.parametrize("place", ["folder", "pipe", "/dev/zero"])
    def test_what_is_no_file_is_not_read(self, tmp_path, place):
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match=r"must be a posterior written by bayesreg.save, but it is no plain file"):
            br.load(tmp_path / place)

    @pytest.mark.parametrize(
        "declare",
        [
            lambda c: c.update(
                architecture=["Linear", {"in_features": 30_000, "out_features": 30_000, "bias": False}],
                priors={"weight": ((30_000, 30_000), "float32", "Normal(1.0)", "Normal(1.0)", "x")},
            ),
            lambda c: c["state"].update(loc=torch.zeros(1).expand(900_000_000)),
            lambda c: c.update(
                architecture=["Sequential", [["0", ["BatchNorm1d", {"num_features": 900_000_000, "eps": 1e-5, "momentum": 0.1,
                                                                  "affine": False, "track_running_stats": True}]]]]
            ),
        ],
        ids=["layer", "view", "buffer"],
    )  # fmt: skip
    def test_a_small_file_that_declares_gigabytes_takes_none(self, tmp_path, declare):
        br.save(fitted()[0], tmp_path / "p")
        tampered(tmp_path / "p", declare)
        assert (tmp_path / "p").stat().st_size < 10_000
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ValueError, match=r"must be that of its tensors|its tensors declare more than it has"):
            br.load(tmp_path / "p")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


BEND = torch.relu


def bend(x):
    return torch.relu(x)


class Own(nn.Module):
    """A person's own network, whose forward reaches what stands elsewhere."""

    def __init__(self, scale=1.0, act=None, table=None):
        super().__init__()
        self.scale, self.act, self.calls, self.seen = scale, act or nn.Tanh(), 0, None
        self.table = torch.arange(3.0) if table is None else table
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 1)

    def helper(self, x):
        return self.scale * x

    def forward(self, x):
        self.calls += 1
        self.seen = x
        return self.last(self.helper(self.act(self.first(x))) + bend(self.table))


class Loud(Own):
    def helper(self, x):
        return 2 * self.scale * x


class Renamed(Own):
    def forward(self, x):
        return super().forward(x) + 1


def own_fit(module):
    torch.manual_seed(0)
    X = torch.randn(20, 2)
    model = br.BayesianModel(module, priors.Normal(1.0), likelihoods.Gaussian(0.5))
    return br.fit(model, X, X[:, 0], method=MAP("adam", num_steps=10), progress=False), X


@pytest.mark.filterwarnings("ignore::bayesreg.inference.base.ConvergenceWarning")
class TestArchitecture:
    @pytest.mark.parametrize(
        ("fitted", "came", "message"),
        [
            (nn.ReLU(), nn.Tanh(), "1 was ReLU and is Tanh"),
            (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), r"negative_slope of 1 \(LeakyReLU\) was 0.1 and is 0.2"),
            (nn.ELU(1.0), nn.ELU(2.0), r"alpha of 1 \(ELU\) was 1.0 and is 2.0"),
            (nn.GELU(), nn.GELU("tanh"), r"approximate of 1 \(GELU\) was 'none' and is 'tanh'"),
            (nn.Dropout(0.1), nn.Dropout(0.2), r"p of 1 \(Dropout\) was 0.1 and is 0.2"),
            (nn.LayerNorm(3, 1e-5), nn.LayerNorm(3, 1e-3), r"eps of 1 \(LayerNorm\) was 1e-05 and is 0.001"),
            (nn.Softmax(0), nn.Softmax(1), r"dim of 1 \(Softmax\) was 0 and is 1"),
            (nn.Identity(), nn.Sequential(), r"1 was Identity and is Sequential"),
            (nn.Identity(), nn.Sequential(nn.ReLU()), r"1 was Identity and is Sequential; 1.0 is one too many"),
        ],
    )
    def test_another_layer_or_setting_is_named(self, tmp_path, fitted, came, message):
        layers = lambda middle: nn.Sequential(nn.Linear(2, 3), middle, nn.Linear(3, 1))  # noqa: E731
        posterior, X = own_fit(layers(fitted))
        br.save(posterior, tmp_path / "p")
        assert br.load(tmp_path / "p", module=layers(fitted)).predict(X).mean.equal(posterior.predict(X).mean)
        with pytest.raises(ValueError, match=rf"the module must be that of the fit, but {message}.*; build it as it was"):
            br.load(tmp_path / "p", module=layers(came))

    def test_convolutions_are_compared_in_all_that_shapes_do_not_tell(self, tmp_path):
        torch.manual_seed(0)
        X = torch.randn(8, 1, 5, 5)

        def build(**options):
            layers = (nn.Conv2d(1, 2, 3, padding=1, **options), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1))
            return nn.Sequential(*layers)

        model = br.BayesianModel(build(), priors.Normal(1.0), likelihoods.Gaussian(0.5))
        posterior = br.fit(model, X, X[:, 0, 0, 0], method=MAP("adam", num_steps=5), progress=False)
        br.save(posterior, tmp_path / "p")
        with pytest.raises(ValueError, match=r"padding_mode of 0 \(Conv2d\) was 'zeros' and is 'circular'; build it as"):
            br.load(tmp_path / "p", module=build(padding_mode="circular"))
        with pytest.raises(ValueError, match=r"stride of 0 \(Conv2d\) was tuple\(1, 1\) and is tuple\(2, 2\)"):
            br.load(tmp_path / "p", module=build(stride=2))

    @pytest.mark.parametrize(
        ("came", "message"),
        [
            (lambda: Own(2.0), r"scale of the network \(Own\) was 1.0 and is 2.0"),
            (lambda: Own(act=nn.ReLU()), r"act was Tanh and is ReLU"),
            (lambda: Own(table=torch.arange(3.0) + 1), r"table of the network \(Own\) was float32 \(3,\) .* and is float32"),
            (lambda: Loud(), r"the network was Own and is Loud"),
            (lambda: Renamed(), r"the network was Own and is Renamed"),
        ],
    )
    def test_a_module_of_one_s_own_is_compared(self, tmp_path, came, message):
        posterior, X = own_fit(Own())
        br.save(posterior, tmp_path / "p")
        assert posterior.model.to_run().calls > 1  # what passes write is no setting
        assert br.load(tmp_path / "p", module=Own()).predict(X).mean.equal(posterior.predict(X).mean)
        with pytest.raises(ValueError, match=message):
            br.load(tmp_path / "p", module=came())

    @pytest.mark.parametrize("place", ["forward", "method", "function", "global", "closure", "parent"])
    def test_changed_code_is_refused_wherever_it_stands_unless_one_vouches_for_it(self, tmp_path, monkeypatch, place):
        def closed(factor):
            return lambda x: factor * torch.tanh(x)

        build = (lambda factor=1.0: Own(act=Bent(closed(factor)))) if place == "closure" else Own
        posterior, X = own_fit(build())
        br.save(posterior, tmp_path / "p")
        again = build(1.0)
        if place == "forward":
            monkeypatch.setattr(Own, "forward", lambda self, x: self.last(torch.tanh(self.first(x))))
        elif place == "method":
            monkeypatch.setattr(Own, "helper", lambda self, x: self.scale * x * 1)
        elif place == "function":
            monkeypatch.setitem(globals(), "bend", lambda x: torch.relu(x) + 1)
        elif place == "global":
            monkeypatch.setitem(globals(), "bend", torch.sigmoid)
        elif place == "closure":
            again = build(2.0)
        else:
            monkeypatch.setattr(Own, "helper", Loud.helper)
        with pytest.raises(ValueError, match=r"was Bent|of act|the code of the forward of the network \(Own\) has changed"):
            br.load(tmp_path / "p", module=again)
        if place != "closure":
            found = br.load(tmp_path / "p", module=again, allow_changed_code=True)
            assert any(note.startswith("loaded into changed code: the code of the forward") for note in found.history.notes)
            monkeypatch.undo()
            assert br.load(tmp_path / "p", module=Own()).predict(X).mean.equal(posterior.predict(X).mean)

    @pytest.mark.parametrize("where", ["layer", "network", "buffer"])
    def test_what_hangs_on_a_sequential_is_not_lost(self, tmp_path, where):
        def build(factor=2.0):
            net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
            if where == "buffer":
                net[1].register_buffer("more", torch.ones(1))
            else:
                (net if where == "network" else net[0]).register_forward_hook(lambda layer, x, output: factor * output)
            return net

        posterior, X = own_fit(build())
        br.save(posterior, tmp_path / "p")
        with pytest.raises(ValueError, match=r"not a Sequential of ordinary layers; pass it: load\(path, module=net\)"):
            br.load(tmp_path / "p")
        assert br.load(tmp_path / "p", module=build()).predict(X).mean.equal(posterior.predict(X).mean)
        if where != "buffer":
            with pytest.raises(ValueError, match=r"forward_hooks of .* was .* and is"):
                br.load(tmp_path / "p", module=build(3.0))

    def test_what_makes_no_difference_is_no_difference(self, tmp_path, monkeypatch):
        posterior, X = own_fit(Own())
        br.save(posterior, tmp_path / "p")

        def forward(self, x):
            """Other words, another name for a local variable."""
            self.calls += 1  # and a comment
            self.seen = x
            return self.last(self.helper(self.act(self.first(x))) + bend(self.table))

        monkeypatch.setattr(Own, "forward", forward)
        monkeypatch.setattr(Own, "plot", lambda self: None, raising=False)
        assert br.load(tmp_path / "p", module=Own().train()).predict(X).mean.equal(posterior.predict(X).mean)

    def test_another_version_of_python_cannot_compare_code_and_says_so(self, tmp_path, monkeypatch):
        posterior, _ = own_fit(Own())
        with monkeypatch.context() as patch:
            patch.setattr(architecture, "PYTHON", "2.7, optimize=0")
            br.save(posterior, tmp_path / "p")
        monkeypatch.setattr(Own, "helper", Loud.helper)
        notes = br.load(tmp_path / "p", module=Own()).history.notes
        assert notes[-1].startswith("the code of the module's forward was not compared with that of the fit: it was saved by")


class Bent(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(x)


class Stop(Exception):
    """What interrupts a fit here."""


def at(step):
    def stop(done, total, objective):
        if done >= step:
            raise Stop

    return stop


METHODS = {
    "map": lambda **k: MAP("adam", num_steps=30, batch_size=8, **k),
    "early stopping": lambda **k: MAP(
        "adam", num_steps=60, batch_size=8, learning_rate=0.1, validation_fraction=0.2, patience=2, **k
    ),
    "mean-field": lambda **k: MeanField(num_steps=30, batch_size=8, **k),
    "mean-field by ivon": lambda **k: MeanField(num_steps=30, batch_size=8, optimizer="ivon", **k),
    "low-rank": lambda **k: LowRank(2, num_steps=30, batch_size=8, **k),
    "svi": lambda **k: SVI(num_steps=30, batch_size=8, **k),
    "mean-field of several draws": lambda **k: MeanField(num_steps=30, num_particles=4, **k),
    "dropout": lambda **k: MCDropout(num_steps=30, batch_size=8, warmup=0.7, **k),
    "laplace": lambda **k: LaplaceApproximation(mode=MAP("adam", num_steps=30, **k)),
    "batch normalisation": lambda **k: MCBatchNorm(8, MAP("adam", num_steps=30, **k), num_draws=3),
}


def problem(name="map", shift=0.0):
    torch.manual_seed(0)
    X = torch.randn(40, 2)
    between = {
        "dropout": [nn.Dropout(0.2)],
        "batch normalisation": [nn.BatchNorm1d(4)],
        "mean-field": [nn.BatchNorm1d(4)],
    }
    net = nn.Sequential(nn.Linear(2, 4), *between.get(name, []), nn.Tanh(), nn.Linear(4, 1))
    return br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(0.5), standardize=True), X, X[:, 0].sin() + shift


def quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        return br.fit(*arguments, **{"progress": False, **options})


def same(one, other):
    kept = [note for note in one.history.notes if not note.startswith("resumed from")]
    assert kept == [note for note in other.history.notes if not note.startswith("resumed from")]
    assert one.certificate == other.certificate
    assert (one.history.steps, one.history.objective) == (other.history.steps, other.history.objective)
    for a, b in ((one.sample(3), other.sample(3)), (one.mean, other.mean), (one.std, other.std)):
        assert all(a[name].equal(b[name]) for name in a)
    buffers = zip(one.model.module.named_buffers(), other.model.module.named_buffers(), strict=True)
    assert all(a[1].equal(b[1]) for a, b in buffers)


# what draws differently by the same loop is in the slow suite
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("low-rank", "mean-field of several draws") else name
        for name in METHODS
    ],
)
class TestEveryMethodThatTakesSteps:
    @pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
    def test_goes_on_to_the_same_answer_bit_for_bit(self, tmp_path, name, seed):
        model, X, y = problem(name)
        whole = quiet(model, X, y, method=METHODS[name](), seed=seed)
        method = METHODS[name](checkpoint=tmp_path / "fit.pt", checkpoint_every=4)
        for step in (6, 12):
            with pytest.raises(Stop):
                quiet(model, X, y, method=method, seed=seed, progress=at(step))
        assert [p.name for p in tmp_path.iterdir()] == ["fit.pt"]
        resumed = quiet(model, X, y, method=method, seed=seed)
        assert any(note.startswith("resumed from fit.pt after step ") for note in resumed.history.notes)
        same(resumed, whole)
        assert not os.listdir(tmp_path)

    def test_a_crash_after_the_search_loses_nothing(self, tmp_path, name, monkeypatch):
        model, X, y = problem(name)
        whole = quiet(model, X, y, method=METHODS[name]())
        method = METHODS[name](checkpoint=str(tmp_path / "fit.pt"), checkpoint_every=1000)
        variational = name.startswith(("mean-field", "low-rank", "svi"))  # their start is a fit that must not crash
        places = ["variational", "svi"] if variational else ["map", "mc_dropout", "laplace", "mc_batchnorm"]

        def fails(*arguments, **options):
            raise MemoryError

        with monkeypatch.context() as patch:
            for place in places:
                patch.setattr(importlib.import_module(f"bayesreg.inference.{place}"), "FitRecord", fails, raising=False)
            patch.setattr("bayesreg.inference.mc_batchnorm.with_statistics", fails)
            with pytest.raises(MemoryError):
                quiet(model, X, y, method=method)
        seen = []
        resumed = quiet(model, X, y, method=method, progress=lambda *told: seen.append(told))
        same(resumed, whole)
        assert not any(told[0] for told in seen)  # straight to the certificate, but for the search of a start
        assert not os.listdir(tmp_path)

    def test_a_second_fit_on_the_same_path_is_refused(self, tmp_path, name):
        model, X, y = problem(name)
        method, told = METHODS[name](checkpoint=tmp_path / "fit.pt"), []

        def meanwhile(*_):
            if not told:
                with pytest.raises(ValueError, match=r"another fit is running on .*fit.pt; give each its own path") as error:
                    quiet(model, X, y, method=method)
                told.append(error)

        quiet(model, X, y, method=method, progress=meanwhile)
        assert told
        assert not os.listdir(tmp_path)


def interrupted(tmp_path, model, X, y=None, name="map", **options):
    method = METHODS[name](checkpoint=tmp_path / "fit.pt", checkpoint_every=4, **options)
    with pytest.raises(Stop):
        quiet(model, X, y, method=method, progress=at(10))
    return method


ELSEWHERE = r"a checkpoint must belong to the fit that takes it up, but .* other data, another model"


class TestCheckpoints:
    @pytest.mark.parametrize("name", ["map", "mean-field", "dropout"])
    def test_other_rows_of_a_loader_are_another_fit(self, tmp_path, name):
        model, X, y = problem(name)
        model = br.BayesianModel(model.module, priors.Normal(1.0), likelihoods.Gaussian(0.5))
        load = lambda y, **k: DataLoader(TensorDataset(X, y), 8, shuffle=True, **k)  # noqa: E731
        make = lambda **k: type(METHODS[name]())(num_steps=30, **k)  # noqa: E731
        for own in (None, torch.Generator().manual_seed(5)):
            state = None if own is None else own.get_state()
            whole = quiet(model, load(y, generator=own), method=make())
            if own is not None:
                own.set_state(state)
            method = make(checkpoint=tmp_path / "fit.pt", checkpoint_every=4)
            with pytest.raises(Stop):
                quiet(model, load(y, generator=own), method=method, progress=at(10))
            other = y.clone()
            other[3] += 1e-6
            with pytest.raises(ValueError, match=ELSEWHERE):
                quiet(model, load(other), method=method)
            same(quiet(model, load(y, generator=own), method=method), whole)

    def test_a_key_stands_for_rows_that_are_not_read(self, tmp_path):
        model, X, y = problem()
        loader = DataLoader(TensorDataset(X, y), 8)
        make = lambda key, **k: MAP("adam", num_steps=30, checkpoint=tmp_path / "fit.pt", checkpoint_key=key, **k)  # noqa: E731
        with pytest.raises(Stop):
            quiet(model, loader, method=make("sales 2024"), progress=at(15))
        with pytest.raises(ValueError, match=ELSEWHERE):
            quiet(model, loader, method=make("sales 2025"))
        with pytest.raises(ValueError, match=ELSEWHERE):
            quiet(model, loader, method=MAP("adam", num_steps=30, checkpoint=tmp_path / "fit.pt"))
        quiet(model, loader, method=make("sales 2024"))
        assert not os.listdir(tmp_path)

    def test_a_loader_that_cannot_be_read_is_told_before_the_search(self, tmp_path):
        class Broken(TensorDataset):
            def __getitem__(self, i):
                if i == 30:
                    raise OSError("disk gone")
                return super().__getitem__(i)

        model, X, y = problem()
        model = br.BayesianModel(model.module, priors.Normal(1.0), likelihoods.Gaussian(0.5))
        message = r"after 24 rows the loader raised OSError: disk gone; mend it, or give checkpoint_key, a text that"
        with pytest.raises(ValueError, match=message):
            quiet(model, DataLoader(Broken(X, y), 8), method=MAP("adam", num_steps=30, checkpoint=tmp_path / "fit.pt"))

    @pytest.mark.parametrize("change", ["forward", "buffer", "attribute", "activation", "shape of X"])
    def test_another_network_is_another_fit(self, tmp_path, monkeypatch, change):
        class Net(nn.Module):
            def __init__(self, k=1.0, buffered=1.0, act=None):
                super().__init__()
                self.linear, self.k, self.act = nn.Linear(2, 1), k, act or nn.Tanh()
                self.register_buffer("b", torch.tensor(buffered), persistent=False)

            def forward(self, x):
                return self.k * self.b * self.act(self.linear(x.flatten(1)))

        def build(*arguments, **options):
            torch.manual_seed(0)
            return br.BayesianModel(Net(*arguments, **options), priors.Normal(1.0), likelihoods.Gaussian(0.5))

        _, X, y = problem()
        method = interrupted(tmp_path, build(), X, y)
        other = {"buffer": {"buffered": 2.0}, "attribute": {"k": 2.0}, "activation": {"act": nn.Sigmoid()}}.get(change, {})
        if change == "forward":
            monkeypatch.setattr(Net, "forward", lambda self, x: self.linear(x))
        with pytest.raises(ValueError, match=ELSEWHERE):
            quiet(build(**other), X[:, :, None] if change == "shape of X" else X, y, method=method)
        monkeypatch.undo()
        quiet(build(), X, y, method=method)

    def flips(self, count, seed, tmp_path):
        model, X, y = problem()
        whole = quiet(model, X, y, method=METHODS["map"]())
        method = interrupted(tmp_path, model, X, y)
        raw = (tmp_path / "fit.pt").read_bytes()
        for bit in [0, 9, 8 * len(raw) - 1, *random.Random(seed).sample(range(8 * len(raw)), count)]:
            (tmp_path / "fit.pt").write_bytes(flipped(raw, bit))
            with pytest.raises(
                ValueError, match=r"fit.pt' must be a checkpoint written by a fit, but it is damaged: .*; delete"
            ):
                quiet(model, X, y, method=method)
        (tmp_path / "fit.pt").write_bytes(raw)
        same(quiet(model, X, y, method=method), whole)

    def test_a_flipped_bit_is_told(self, tmp_path):
        self.flips(10, 0, tmp_path)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_many_flipped_bits(self, tmp_path, seed):
        self.flips(200, seed, tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.pop("losses"), "must hold the state of this fit, but parts are missing or odd; delete it"),
            (lambda c: c["stepper"].pop("first"), "must hold the state of this fit, but parts are missing or odd"),
            (lambda c: c["stepper"]["parameter"].fill_(float("nan")), "must hold the state of this fit, but parts are missing"),
            (lambda c: c["stepper"].update(first=torch.zeros(3)), "must hold the state of this fit, but parts are missing"),
            (lambda c: c.pop("belongs to"), ELSEWHERE),
            (lambda c: c.update(step="many"), "must hold the state of this fit, but parts are missing or odd"),
        ],
    )
    def test_content_is_checked_also_under_a_seal_that_fits(self, tmp_path, change, message):
        model, X, y = problem()
        method = interrupted(tmp_path, model, X, y)
        content = torch.load(tmp_path / "fit.pt", weights_only=True)
        change(content)
        with open(tmp_path / "fit.pt", "w+b") as handle:
            seal(handle, "checkpoint", 2, content)
        with pytest.raises(ValueError, match=message):
            quiet(model, X, y, method=method)

    def test_files_of_another_kind_are_told_apart(self, tmp_path):
        model, X, y = problem()
        method = interrupted(tmp_path, model, X, y)
        with pytest.raises(
            ValueError, match=r"must be a posterior written by bayesreg.save, but it is a checkpoint; pass another"
        ):
            br.load(tmp_path / "fit.pt")
        br.save(quiet(model, X, y, method=METHODS["map"]()), tmp_path / "fit.pt", force=True)
        with pytest.raises(
            ValueError, match=r"must be a checkpoint written by a fit, but it is a posterior; pass another file"
        ):
            quiet(model, X, y, method=method)
        torch.save({"belongs to": "somebody", "step": 3}, tmp_path / "fit.pt")
        with pytest.raises(
            ValueError, match=r"has no seal, so that another program or an older version .*; delete it, or give"
        ):
            quiet(model, X, y, method=method)

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("link", r"a checkpoint must be a file of its own, but .*link is a link; give the path that it points to"),
            ("folder", r"folder' must be the place of a file, but a folder or device is there"),
            ("nowhere/fit.pt", r"a checkpoint must lie in a folder that is there, but .*nowhere is none"),
            ("/proc/self/fit.pt", r"the folder of .* must be writable, but no file can be made there"),
            ("x" * 300, r"a file must have a valid name, but .* has none \(File name too long\)"),
        ],
    )
    def test_places_are_looked_at_before_the_search(self, tmp_path, place, message):
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        model, X, y = problem()
        seen = []
        with pytest.raises(ValueError, match=message):
            quiet(model, X, y, method=MAP("adam", checkpoint=tmp_path / place), progress=lambda *told: seen.append(told))
        assert not seen
        assert sorted(os.listdir(tmp_path)) == ["folder", "link"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"checkpoint": 3}, r"checkpoint must be a file's path, but 3 came"),
            ({"checkpoint_every": 3}, r"checkpoint_every must come with checkpoint, the file, but it came alone"),
            ({"checkpoint_key": "a"}, r"checkpoint_key must come with checkpoint, the file, but it came alone"),
            ({"checkpoint": "a", "checkpoint_key": 3}, r"checkpoint_key must be a text that names the data, but 3 came"),
            ({"checkpoint": "a", "checkpoint_every": 0}, r"checkpoint_every must be"),
        ],
    )
    @pytest.mark.parametrize("method", [MAP, MeanField, MCDropout])
    def test_options(self, method, options, message):
        with pytest.raises(ValueError, match=message):
            method(**options)

    def test_a_full_disk_is_found_out_before_the_search(self, tmp_path, monkeypatch):
        def full(handle, start, length):
            raise OSError(errno.ENOSPC, "No space left on device")

        model, X, y = problem()
        seen = []
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(
            ValueError, match=r"there must be room for [\d,]+ bytes next to .*fit.pt', but there is not \(No space"
        ):
            quiet(model, X, y, method=MAP("adam", checkpoint=tmp_path / "fit.pt"), progress=lambda *told: seen.append(told))
        assert not seen
        assert not os.listdir(tmp_path)

    def test_a_disk_that_fills_up_later_costs_the_state_and_not_the_fit(self, tmp_path, monkeypatch):
        model, X, y = problem()
        whole = quiet(model, X, y, method=METHODS["map"]())

        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match=r"the fit goes on, but its state could not be kept in .* \(No space left on"):
            found = br.fit(model, X, y, method=METHODS["map"](checkpoint=tmp_path / "fit.pt"), progress=False)
        assert found.loc.equal(whole.loc)
        assert sum("its state could not be kept" in note for note in found.history.notes) == 1
        assert not os.listdir(tmp_path)

    def test_fits_of_many_sets_keep_none(self, tmp_path):
        model, X, y = problem("dropout")
        with pytest.raises(ValueError, match=r"checkpoint keeps the state of one fit, but fit_each runs several at once"):
            MCDropout(checkpoint=tmp_path / "fit.pt").fit_each([model], [(X, y)])


KILLED = """
    import os, sys, time, torch
    torch.set_num_threads(1)
    from tests.hostile.test_files import LONG, problem, quiet
    path, name = sys.argv[1:]
    slow = lambda step, total, objective: time.sleep(0.01)
    for _ in sys.stdin:  # a process for each fit, without loading everything anew
        child = os.fork()
        if child == 0:
            model, X, y = problem(name)
            quiet(model, X, y, method=LONG[name](checkpoint=path, checkpoint_every=10), seed=3, progress=slow)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""
LONG = {
    "map": lambda **k: MAP("adam", num_steps=2000, batch_size=8, **k),
    "mean-field": lambda **k: MeanField(num_steps=2000, batch_size=8, **k),
    "dropout": lambda **k: MCDropout(num_steps=2000, batch_size=8, warmup=0.5, **k),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_twenty_kills_at_random_moments(name, tmp_path):
    """kill -9 whenever it comes, also in the middle of writing: the fit that outlives them gives the answer bit for bit."""
    path, moments = tmp_path / "fit.pt", random.Random(name)
    written = lambda: path.stat().st_mtime_ns if path.exists() else 0  # noqa: E731
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        for _ in range(7):
            before, deadline = written(), time.monotonic() + 120
            server.stdin.write("go\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            while written() == before:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
            assert int(server.stdout.readline()) == signal.SIGKILL, "the fit must be long enough to be killed"
        server.stdin.close()
    model, X, y = problem(name)
    resumed = quiet(model, X, y, method=LONG[name](checkpoint=path, checkpoint_every=10), seed=3)
    same(resumed, quiet(model, X, y, method=LONG[name](), seed=3))
    assert any(note.startswith("resumed from fit.pt after step ") for note in resumed.history.notes)
    assert not os.listdir(tmp_path)
