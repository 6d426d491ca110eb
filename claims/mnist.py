"""The MNIST homework: its claims on momentum, ReLU, BN's gamma and beta, full-batch gradient descent, pooling and the inputs.

All networks have the same fixed learning rate in all epochs, as the homework has it, and no penalty.
"""
from functools import partial

import numpy as np

import nets
from claims.common import best_value, by_value, claim, difference, fact, gap
from lab import plots, statistics, tables, tuning, workers
from lab.settings import config, row

DATASET, TIME = "mnist", "about half an hour of one core"
DOCUMENT = "MNIST homework"
FEW = 5  # seeds
DATA = {"scale": "all", "n_train": 10_000, "n_val": 5_000, "lam": 0.0, "decay": 1.0}
SETTING = DATA | {"n_epochs": 10}  # 1,000 updates
DEPTHS = {"3 layers": 2, "6 layers": 5, "9 layers": 8}  # network: hidden layers of 100 units
NETS = [*DEPTHS, "convolutional"]


def full(hidden, m=100, activation="relu"):
    """The specs of a fully connected network with some hidden layers of m units."""
    return [["affine", m], [activation]] * hidden + [["affine", 10]]


def conv(pool, size=3, stride=1):
    """The specs of a convolutional network: two convolutions, each followed by ReLU and pool, and an affine layer."""
    return [["conv", 8, size, stride, 1], ["relu"], *pool, ["conv", 16, size, stride, 1], ["relu"], *pool, ["affine", 10]]


MOMENTUM = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]  # learning rates with momentum .9, which makes them ten times as effective
ADAPTIVE = [1e-4, 3e-4, 1e-3, 3e-3, 0.01]
RULES = {"SGD": [{"momentum": 0.0, "eta_max": 10 * eta} for eta in MOMENTUM],
         "momentum": [{"momentum": 0.9, "eta_max": eta} for eta in MOMENTUM],
         "RMSProp": [{"rule": "rmsprop", "eta_max": eta} for eta in ADAPTIVE],
         "Adam": [{"rule": "adam", "momentum": 0.9, "eta_max": eta} for eta in ADAPTIVE]}
FIXED = {"learnt": [], "fixed": ["gamma", "beta"]}
INPUTS = {"pixels / 255": {"scale": "255"}, "each pixel standardised": {"scale": "each"}, "whitened pixels": {"zca": 0.1}}
CNN = conv([["max_pool", 2]])
POOLS = {"max pooling": CNN, "average pooling": conv([["avg_pool", 2]]), "no pooling": conv([]),
         "stride 2": conv([], size=4, stride=2)}  # steps of 2 fit windows of 4 x 4, not of 3 x 3

ARMS = {f"{net}, {rule}": [config(**SETTING | how, specs=full(hidden)) for how in hows]
        for net, hidden in DEPTHS.items() for rule, hows in RULES.items()}
ARMS |= {f"{net}, sigmoid or tanh": [config(**SETTING | how, specs=full(hidden, activation=activation), sigma="xavier")
                                     for activation in ("sigmoid", "tanh") for how in RULES["momentum"]]
         for net, hidden in DEPTHS.items()}
ARMS |= {f"{net} of 10 units, BN, gamma and beta {which}":
         [config(**SETTING | how, specs=nets.with_bn(full(hidden, 10)), fixed=names) for how in RULES["momentum"]]
         for net, hidden in DEPTHS.items() if net != "6 layers" for which, names in FIXED.items()}
ARMS |= {f"3 layers, {inputs}": [config(**SETTING | change | how, specs=full(2)) for how in RULES["momentum"]]
         for inputs, change in INPUTS.items()}
ARMS |= {f"convolutional, {rule}": [config(**DATA | how, specs=CNN, n_epochs=3, n_eval=1_000) for how in RULES[rule][:5]]
         for rule in ("SGD", "momentum")}
ARMS |= {f"convolutional, {pool}": [config(**DATA | how | {"n_train": 2_000}, specs=specs, n_epochs=15, n_eval=1_000)
                                    for how in RULES["momentum"][1:5]] for pool, specs in POOLS.items()}

DESCENT = {eta: config(**DATA | {"n_train": 1_000, "n_val": 500}, specs=full(1, 50, "tanh"), sigma="xavier", n_batch=1_000,
                       n_epochs=200, eta_max=eta) for eta in (0.01, 0.1, 1.0, 10.0)}  # tanh: the cost is smooth
WATCHED = {bn: config(**SETTING, specs=nets.with_bn(full(8), bn), zca=0.1, momentum=0.9, eta_max=0.01, watched=1_000)
           for bn in ("off", "before")}


def descent(eta):
    return f"full batch, eta {eta:g}"


def watched(bn):
    return f"9 layers, whitened pixels, BN {bn}"


def train(raw, opts):
    few = min(FEW, opts.seeds)
    rows = [row(descent(eta), **c) for eta, c in DESCENT.items()] + [row(watched(bn), **c) for bn, c in WATCHED.items()]
    runs = [(each, seed) for each in rows for seed in range(few)]
    results = workers.train_runs(runs, raw, opts, test=False, may_diverge=True)
    for name, configs in ARMS.items():
        results |= tuning.tuned(name, configs, raw, opts, seeds=few, trials=2, test=False)
    return results


def numbers(results):
    return []


def mean_loss(result):
    """The mean training loss over the epochs in nats, the area under its curve; that of chance for a diverged training."""
    return float(np.mean(result["history"].get("train_loss", [np.log(len(result["data"]["classes"]))])))


def over_depths(results, rule):
    """For each seed a result with the mean of mean_loss over the fully connected networks."""
    by_seed = zip(*(results[f"{net}, {rule}"] for net in DEPTHS))
    return [{"seed": runs[0]["seed"], "loss": np.mean([mean_loss(run) for run in runs])} for runs in by_seed]


def rises(results):
    """How often the training loss rises from an epoch to the next, and of how many times; once if a training diverged."""
    steps = np.concatenate([np.diff(result["history"].get("train_loss", [0, np.inf])) for result in results])
    return int((steps > 0).sum()), len(steps)


def correlation(result, layer, epoch=-1):
    """The mean absolute correlation of two units' scores after an epoch, in %."""
    return 100 * result["history"][f"S{layer}_correlation"][epoch]


def weights(result):
    """The number of a network's weights."""
    shapes = nets.shapes_of(result["config"]["specs"], result["data"]["shape"])
    return sum(int(np.prod(own)) for name, own in shapes.items() if name.startswith("W"))


def claims(results):
    val, training = (partial(statistics.paired, key=f"{part}_accuracy") for part in ("val", "train"))

    def converged(name):
        return plots.converged(results[name])

    def faster(rule):
        return difference(over_depths(results, "SGD"), over_depths(results, rule), lambda r: r["loss"])

    def relu(net):
        return val(results[f"{net}, sigmoid or tanh"], results[f"{net}, momentum"])

    def learnt(net, paired):
        return paired(*(converged(f"{net} of 10 units, BN, gamma and beta {which}") for which in ("fixed", "learnt")))

    def inputs(before, after="whitened pixels"):
        return val(results[f"3 layers, {before}"], results[f"3 layers, {after}"])

    def pooled(other, compare):
        return compare(converged(f"convolutional, {other}"), converged("convolutional, max pooling"))

    def less_gap(before, after):
        return difference(after, before, gap)

    def grown(bn, layer, epoch):
        """How much larger the correlation in the last hidden layer is at the end than in a layer after an epoch."""
        return statistics.mean_difference([correlation(r, 8) - correlation(r, layer, epoch) for r in converged(watched(bn))])

    counts = {eta: rises(results[descent(eta)]) for eta in DESCENT}
    shown = {pool: weights(results[f"convolutional, {pool}"][0]) for pool in ("max pooling", "no pooling")}
    return [
        claim(DOCUMENT, "momentum almost always converges better than SGD on deep networks",
              "mean training loss over 10 epochs, momentum minus SGD, mean over networks of 3, 6 and 9 layers, "
              "each at its best eta", faster("momentum"), -1, "nats",
              **{net: difference(results[f"{net}, SGD"], results[f"{net}, momentum"], mean_loss) for net in NETS},
              **{f"{rule} minus SGD": faster(rule) for rule in ("RMSProp", "Adam")}),
        claim(DOCUMENT, "ReLU works well in image classification, compared with sigmoid and tanh",
              "validation accuracy, ReLU minus the better of sigmoid and tanh, 3 layers, momentum, each at its best eta",
              relu("3 layers"), +1, **{net: relu(net) for net in ("6 layers", "9 layers")}),
        fact(DOCUMENT, "full-batch gradient descent with a low enough learning rate makes non-negative progress",
             "how often the cost of 1,000 images rises in 200 updates, one hidden layer of 50 tanh units",
             "; ".join(f"eta {eta:g}: {k} of {n}" for eta, (k, n) in counts.items()),
             counts[min(DESCENT)][0] == 0 < counts[max(DESCENT)][0]),
        claim(DOCUMENT, "gamma and beta restore the representational power of BN's networks",
              "training accuracy with gamma and beta learnt minus fixed to 1 and 0, 3 layers of 10 units, each at its best eta",
              learnt("3 layers", training), +1,
              **{"9 layers": learnt("9 layers", training), "validation accuracy": learnt("3 layers", val),
                 "validation accuracy, 9 layers": learnt("9 layers", val)}),
        claim(DOCUMENT, "pooling reduces over-fitting",
              "training minus validation accuracy, without pooling minus with max pooling, 2,000 images, each at its best eta",
              pooled("no pooling", less_gap), +1,
              **{f"{other} minus max pooling": pooled(other, less_gap) for other in ("stride 2", "average pooling")}),
        claim(DOCUMENT, "pooling extracts more salient feature maps",
              "validation accuracy, with max pooling minus without pooling, 2,000 images, each at its best eta",
              pooled("no pooling", val), +1,
              **{f"minus {other}": pooled(other, val) for other in ("stride 2", "average pooling")}),
        fact(DOCUMENT, "pooling reduces the number of parameters", "weights of the convolutional network",
             "; ".join(f"{pool}: {n:,}" for pool, n in shown.items()), shown["max pooling"] < shown["no pooling"]),
        claim(DOCUMENT, "uncorrelated inputs of mean 0 and variance 1 work better",
              "validation accuracy, whitened pixels minus pixels / 255, 3 layers, momentum, each at its best eta",
              inputs("pixels / 255"), +1,
              **{"each pixel standardised minus pixels / 255": inputs("pixels / 255", "each pixel standardised"),
                 "all standardised alike minus pixels / 255": inputs("pixels / 255", "momentum"),
                 "whitened minus all standardised alike": inputs("momentum")}),
        claim(DOCUMENT, "deeper layers are no longer decorrelated even if the inputs are",
              "mean absolute correlation of two units' scores in the last hidden layer minus the first one, in %, "
              "after 10 epochs, 9 layers, whitened pixels", grown("off", 1, -1), +1, **{"BN before": grown("before", 1, -1)}),
        claim(DOCUMENT, "training correlates deeper layers even more",
              "mean absolute correlation in the last hidden layer, in %, after 10 epochs minus after the first one",
              grown("off", 8, 0), +1, **{"BN before": grown("before", 8, 0)}),
    ]


def pairs_won(results):
    """How many pairs of a training with momentum and one with SGD, of the same seed, momentum wins: a line for each network."""
    won = {net: [mean_loss(one) > mean_loss(other) for one, other in zip(results[f"{net}, SGD"], results[f"{net}, momentum"])]
           for net in NETS}
    won["all"] = sum(won.values(), [])
    return [{"network": net, "pairs": len(mine), "won by momentum, %": statistics.text(statistics.share(sum(mine), len(mine)))}
            for net, mine in won.items()]


def tables_of(results):
    arms = [{"arm": name, "best eta_max": f"{mine[0]['config']['eta_max']:g}",
             "mean training loss": tables.summary([mean_loss(result) for result in mine]),
             "training": tables.percent(mine, "train_accuracy"), "validation": tables.percent(mine, "val_accuracy"),
             "training - validation": tables.summary([gap(result) for result in mine])}
            for name in ARMS for mine in [plots.converged(results[name])] if mine]
    activations = [{"network": net, "activation": activation, "best eta_max": f"{best[0]['config']['eta_max']:g}",
                    "validation, trials": tables.percent(best, "val_accuracy")}
                   for net in DEPTHS for activation, mine in by_activation(results, net).items()
                   for best in [best_value(mine, "eta_max")]]
    correlations = [{"BN": bn, "layer": layer}
                    | {f"{when}, %": tables.summary([correlation(result, layer, epoch) for result in mine])
                       for when, epoch in (("correlation after the first epoch", 0), ("after the last", -1))}
                    for bn in WATCHED for mine in [plots.converged(results[watched(bn)])] for layer in range(1, 10)]
    return {"claims_mnist_arms": arms, "claims_mnist_pairs": pairs_won(results), "claims_mnist_activations": activations,
            "claims_mnist_correlation": correlations}


def by_activation(results, net):
    """The trials of ReLU, sigmoid and tanh."""
    trials = results[f"{net}, momentum, trial"] + results[f"{net}, sigmoid or tanh, trial"]
    return {activation: [trial for trial in trials if [activation] in trial["config"]["specs"]]
            for activation in ("relu", "sigmoid", "tanh")}


def figures(results):
    def swept(arms):
        return {label: by_value(results[f"{arm}, trial"], "eta_max") for label, arm in arms.items()}

    rules = {f"{net}: loss, nats": swept({rule: f"{net}, {rule}" for rule in RULES}) for net in DEPTHS}
    rules["convolutional: loss, nats"] = swept({rule: f"convolutional, {rule}" for rule in ("SGD", "momentum")})
    activations = {net: {activation: by_value(mine, "eta_max") for activation, mine in by_activation(results, net).items()}
                   for net in DEPTHS}
    inputs = {"all pixels alike": "3 layers, momentum"} | {name: f"3 layers, {name}" for name in INPUTS}
    pools = {pool: f"convolutional, {pool}" for pool in POOLS}
    return {
        "claims-mnist-rules": partial(plots.swept, "Mean training loss over the epochs", rules, "eta", [mean_loss] * len(NETS)),
        "claims-mnist-activations": partial(plots.swept, "Activations, momentum .9", activations, "eta", "val_accuracy"),
        "claims-mnist-inputs": partial(plots.swept, "Inputs of the 3-layer network, momentum .9", {"": swept(inputs)}, "eta",
                                       "val_accuracy"),
        "claims-mnist-pooling": partial(plots.swept, "Convolutional networks on 2,000 images, momentum .9", {"": swept(pools)},
                                        "eta", "val_accuracy"),
    }
