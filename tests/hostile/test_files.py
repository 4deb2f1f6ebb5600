"""Files as they come in practice: damaged, foreign, half-written, in places where nothing can be written, under links."""

import os
import subprocess
import sys
import textwrap

import pytest

from bayesreg import _files

OLD, NEW = b"old", b"new"
PACKAGE = os.path.dirname(_files.__file__)


def alone(code):
    """In a process of its own, which need not load all of the package."""
    code = f"import sys; sys.path.append({PACKAGE!r})\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def write(paths, force=True, contents=NEW):
    with _files.replacing(paths, force=force) as handles:
        for handle in handles:
            handle.write(contents)


class TestWriting:
    def test_files_are_there_together_with_the_mode_of_the_umask(self, tmp_path):
        code = f"""
            import os; os.umask(0o027)
            from _files import replacing
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
            with _files.replacing([tmp_path / "a", tmp_path / "b"], force=True) as (a, _):
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
            ("x" * 300, True, r"a file must have a name that can be one, but .* cannot \(File name too long\)"),
            ("nul\0", True, r"a file must have a name that can be one, but .* cannot \(embedded null byte\)"),
        ],
    )
    def test_places_that_take_no_file(self, tmp_path, place, force, message):
        (tmp_path / "there").write_bytes(OLD)
        (tmp_path / "folder").mkdir()
        (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
        (tmp_path / "device").symlink_to("/dev/null")
        before = sorted(os.listdir(tmp_path))
        for call in (lambda: write([tmp_path / place], force), lambda: _files.probe(tmp_path / place, force=force)):
            with pytest.raises(ValueError, match=message):
                call()
        assert sorted(os.listdir(tmp_path)) == before

    def test_a_folder_that_takes_no_file_is_found_out_before(self):
        with pytest.raises(ValueError, match=r"a file must be possible in the folder of '/proc/self/post.pt', but none can"):
            _files.probe("/proc/self/post.pt", force=False)

    def test_no_room_is_found_out_before(self, tmp_path):
        code = f"""
            import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            from _files import probe
            probe({str(tmp_path / "a")!r}, force=False, room=9_000)
            probe({str(tmp_path / "a")!r}, force=False, room=11_000)
        """
        assert "ValueError: there must be room for 11,000 bytes beside" in alone(code).stderr
        assert not os.listdir(tmp_path)

    def test_a_link_is_replaced_and_not_followed(self, tmp_path):
        (tmp_path / "elsewhere").write_bytes(OLD)
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        write([tmp_path / "link"])
        assert (tmp_path / "elsewhere").read_bytes() == OLD
        assert not (tmp_path / "link").is_symlink()

    def test_another_s_file_that_came_meanwhile_is_kept(self, tmp_path):
        def late():
            with _files.replacing([tmp_path / "a"], force=False) as (handle,):
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
            from _files import replacing
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
        with _files.replacing([target], force=True) as (handle,):
            handle.write(NEW)
            write([target])  # by the way: one's own, open in another place, are no leftovers
        assert {p.name for p in tmp_path.iterdir()} == {target.name, alive, other_host, other_file}
        assert target.read_bytes() == NEW


class TestLock:
    def test_a_second_is_refused_in_this_process_and_in_another(self, tmp_path):
        path = tmp_path / "fit.pt"
        code = f"from _files import locked\nwith locked({str(path)!r}, 'taken'): print('got it')"
        with _files.locked(path, "taken"):
            with pytest.raises(ValueError, match=r"^taken$"), _files.locked(path, "taken"):
                pass
            assert "ValueError: taken" in alone(code).stderr
        assert not os.listdir(tmp_path)
        assert alone(code).stdout == "got it\n"

    def test_a_lock_dies_with_its_process(self, tmp_path):
        path = tmp_path / "fit.pt"
        code = f"""
            import os, signal
            from _files import locked
            with locked({str(path)!r}, 'taken'):
                os.kill(os.getpid(), signal.SIGKILL)
        """
        alone(code)
        assert os.listdir(tmp_path) == [".fit.pt.lock"]
        with _files.locked(path, "taken"):
            pass
        assert not os.listdir(tmp_path)

    def test_a_link_in_the_lock_s_place_is_not_followed(self, tmp_path):
        (tmp_path / ".fit.pt.lock").symlink_to(tmp_path / "elsewhere")
        with (
            pytest.raises(ValueError, match="a file must be possible in"),
            _files.locked(tmp_path / "fit.pt", ""),
        ):
            pass
        assert not (tmp_path / "elsewhere").exists()
