"""What torch does once in a process belongs to no fit."""

import subprocess
import sys

CODE = """
import sys, torch, bayesreg as br
assert "torch._dynamo" not in sys.modules, "importing bayesreg must stay light"
from bayesreg.inference import MAP
seen = []
run = MAP.run

def looked(self, *args, **options):
    seen.append({"torch._dynamo", "scipy.optimize"} <= set(sys.modules))
    return run(self, *args, **options)

MAP.run = looked
x = torch.linspace(-1, 1, 20).double()[:, None]
model = br.BayesianModel(torch.nn.Linear(1, 1).double(), br.priors.Normal(1.0), br.likelihoods.Gaussian(0.5))
before = torch.get_rng_state()
br.fit(model, x, x[:, 0], method="map", progress=False)
assert seen == [True], seen
assert torch.equal(torch.get_rng_state(), before)
"""


def test_the_first_fit_finds_torch_started_and_the_import_does_not_start_it():
    done = subprocess.run([sys.executable, "-c", CODE], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
