"""Lesson 21: chains of operators, batches by length, a ratio of timings, a benchmark put right."""

import statistics

import torch

from wrong_answers import right, wrong

# find_chains


def readers_of(nodes):
    return {name: [i for i, n in enumerate(nodes) if name in n[1]] for node in nodes for name in [*node[1], node[2]]}


@wrong("find_chains", says="you still take the chain")
def follows_any_reader(nodes, pattern, outputs=()):
    read, found = readers_of(nodes), []
    for i, node in enumerate(nodes):
        if node[0] != pattern[0]:
            continue
        chain = [i]
        for op in pattern[1:]:
            name = nodes[chain[-1]][2]
            fitting = [j for j in read[name] if nodes[j][0] == op and name not in outputs]
            if not fitting:
                break
            chain.append(fitting[0])
        if len(chain) == len(pattern):
            found.append(chain)
    return found


@wrong("find_chains", says="would swallow one of them")
def forgets_what_the_graph_gives_out(nodes, pattern, outputs=()):
    read, found = readers_of(nodes), []
    for i in range(len(nodes)):
        chain = [i]
        while len(chain) < len(pattern) and len(read[nodes[chain[-1]][2]]) == 1:
            chain += read[nodes[chain[-1]][2]]
        if [nodes[j][0] for j in chain] == list(pattern):
            found.append(chain)
    return found


@wrong("find_chains", says="You follow the operators and never ask who else")
def asks_nobody(nodes, pattern, outputs=()):
    def walk(i, rest):
        if not rest:
            return [i]
        for j, (op, inputs, _) in enumerate(nodes):
            if op == rest[0] and nodes[i][2] in inputs:
                return [i] + walk(j, rest[1:])
        return []

    chains = [walk(i, pattern[1:]) for i, (op, _, _) in enumerate(nodes) if op == pattern[0]]
    return [c for c in chains if len(c) == len(pattern)]


@wrong("find_chains", says="What its last node computes is still there")
def wants_the_last_result_unread_too(nodes, pattern, outputs=()):
    return [c for c in by_walking_back(nodes, pattern, outputs) if nodes[c[-1]][2] not in outputs]


@wrong("find_chains", says="operators that stand next to each other in the list")
def slides_over_the_list(nodes, pattern, outputs=()):
    wanted, found = " ".join(pattern), []
    for i in range(len(nodes)):
        stretch = nodes[i : i + len(pattern)]
        if " ".join(n[0] for n in stretch) == wanted:
            found.append([i + k for k in range(len(stretch))])
    return found


@wrong("find_chains", says="you stop after the first chain")
def returns_too_early(nodes, pattern, outputs=()):
    for chain in by_walking_back(nodes, pattern, outputs):
        return [chain]
    return []


@wrong("find_chains", says="one flat list")
def one_list_for_all(nodes, pattern, outputs=()):
    return [i for chain in by_walking_back(nodes, pattern, outputs) for i in chain]


@right("find_chains")  # from the last operator backwards
def by_walking_back(nodes, pattern, outputs=()):
    made = {output: i for i, (_, _, output) in enumerate(nodes)}
    found = []
    for last, (op, _, _) in enumerate(nodes):
        ends = [[last]] if op == pattern[-1] else []
        for wanted in reversed(pattern[:-1]):
            longer = []
            for chain in ends:
                for name in set(nodes[chain[0]][1]):
                    alone = sum(name in inputs for _, inputs, _ in nodes) == 1 and name not in outputs
                    if alone and name in made and nodes[made[name]][0] == wanted:
                        longer.append([made[name], *chain])
            ends = longer
        found += ends
    return sorted(found)


@right("find_chains")  # recursive, and a tuple for each chain
def by_recursion(nodes, pattern, outputs=()):
    read = readers_of(nodes)

    def rest(i, ops):
        if nodes[i][0] != ops[0]:
            return None
        if len(ops) == 1:
            return (i,)
        after = read[nodes[i][2]]
        if nodes[i][2] in outputs or len(after) != 1:
            return None
        tail = rest(after[0], ops[1:])
        return tail and (i, *tail)

    return [c for i in range(len(nodes)) if (c := rest(i, list(pattern)))]


# batches_by_length


@wrong("batches_by_length", says="share the first one, and all of them are padded")
def never_sorts(lengths, size):
    positions = list(range(len(lengths)))
    return [positions[i : i + size] for i in range(0, len(positions), size)]


@wrong("batches_by_length", says="these are lengths")
def sorts_the_lengths(lengths, size):
    lengths = sorted(lengths)[::-1]
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]


@wrong("batches_by_length", says="holds lengths; expected are positions")
def the_lengths_from_the_shortest(lengths, size):
    order = sorted(lengths)
    return [order[i : i + size] for i in range(0, len(order), size)]


@wrong("batches_by_length", says="that finds the first one every time")
def looks_lengths_up(lengths, size):
    order = [lengths.index(n) for n in sorted(lengths)[::-1]]
    return [order[i : i + size] for i in range(0, len(order), size)]


@wrong("batches_by_length", says="those that do not fill one")
def only_full_batches(lengths, size):
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    return [order[k * size : (k + 1) * size] for k in range(len(order) // size)]


@wrong("batches_by_length", says="deal out like cards")
def deals_out(lengths, size):
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    count = (len(order) + size - 1) // size
    return [order[k::count] for k in range(count)]


@wrong("batches_by_length", says="where fewer would do")
def one_by_one(lengths, size):
    return [[i] for i in range(len(lengths))]


@wrong("batches_by_length", says="are in more than one batch")
def takes_one_too_many(lengths, size):
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    return [order[i : i + size + 1] for i in range(0, len(order), size)]


@right("batches_by_length")  # shortest first
def ascending(lengths, size):
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[i : i + size] for i in range(0, len(order), size)]


@right("batches_by_length")  # with tensors
def by_argsort(lengths, size):
    order = torch.tensor(lengths).argsort(descending=True)
    return [part.tolist() for part in order.split(size)]


# speedup


@wrong("speedup", says="were only there to warm up")
def keeps_the_warm_up(slow, fast, warm_up):
    return statistics.median([s / f for s, f in zip(slow, fast, strict=True)])


@wrong("speedup", says="as if the second were the slower one")
def divides_the_wrong_way(slow, fast, warm_up):
    return statistics.median([f / s for s, f in zip(slow, fast, strict=True)][warm_up:])


@wrong("speedup", says="You divide one mean (or sum) by the other")
def compares_means(slow, fast, warm_up):
    slow, fast = torch.tensor(slow).double()[warm_up:], torch.tensor(fast).double()[warm_up:]
    return float(slow.mean() / fast.mean())


@wrong("speedup", says="You take the mean of the ratios")
def averages_ratios(slow, fast, warm_up):
    return float((torch.tensor(slow).double() / torch.tensor(fast).double())[warm_up:].mean())


@wrong("speedup", says="The two medians may come from different rounds")
def compares_medians(slow, fast, warm_up):
    return statistics.median(slow[warm_up:]) / statistics.median(fast[warm_up:])


@wrong("speedup", says="You compare the best time of each")
def compares_the_best(slow, fast, warm_up):
    return sorted(slow[warm_up:])[0] / sorted(fast[warm_up:])[0]


@wrong("speedup", says="you take one of them")
def with_torch_median(slow, fast, warm_up):
    return float((torch.tensor(slow).double() / torch.tensor(fast).double())[warm_up:].median())


@right("speedup")
def with_quantile(slow, fast, warm_up):
    ratios = torch.tensor(slow[warm_up:], dtype=torch.float64) / torch.tensor(fast[warm_up:], dtype=torch.float64)
    return ratios.quantile(0.5)


@right("speedup")  # in place
def cuts_the_lists(slow, fast, warm_up):
    del slow[:warm_up], fast[:warm_up]
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


# fair_times


def figures(records, keep, value, middle=statistics.median):
    times = {}
    for r in records:
        if keep(r):
            times.setdefault(r["contender"], []).append(value(r))
    return {k: middle(v) for k, v in times.items()}


def shared(records, key, warm=False):
    names = {r["contender"] for r in records}
    met = {n: {key(r) for r in records if r["contender"] == n and (warm or not r["warm_up"])} for n in names}
    return set.intersection(*met.values())


def setting(r):
    return r["sentences"], r["threads"]


def own_ms(r):
    return (r["ms"] - r["tokenizing_ms"]) / len(r["sentences"])


@wrong("fair_times", says="Calls that were made to warm up are counted")
def keeps_warm_ups(records):
    common = shared(records, setting, warm=True)
    return figures(records, lambda r: setting(r) in common, own_ms)


@wrong("fair_times", says="you give milliseconds of a")
def per_call(records):
    common = shared(records, setting)
    return figures(records, lambda r: not r["warm_up"] and setting(r) in common, lambda r: r["ms"] - r["tokenizing_ms"])


@wrong("fair_times", says="hold the tokenizing and the other's do not")
def leaves_the_tokenizing_in(records):
    common = shared(records, setting)
    return figures(records, lambda r: not r["warm_up"] and setting(r) in common, lambda r: r["ms"] / len(r["sentences"]))


@wrong("fair_times", says="all calls count, whoever made them")
def compares_everything(records):
    return figures(records, lambda r: not r["warm_up"], own_ms)


@wrong("fair_times", says="but not with the same number of threads")
def same_sentences_only(records):
    common = shared(records, lambda r: r["sentences"])
    return figures(records, lambda r: not r["warm_up"] and r["sentences"] in common, own_ms)


@wrong("fair_times", says="but not the same sentences")
def same_threads_only(records):
    common = shared(records, lambda r: r["threads"])
    return figures(records, lambda r: not r["warm_up"] and r["threads"] in common, own_ms)


@wrong("fair_times", says="in a warm-up call only")
def remembers_warm_up_settings(records):
    common = shared(records, setting, warm=True)
    return figures(records, lambda r: not r["warm_up"] and setting(r) in common, own_ms)


@wrong("fair_times", says="The third was never asked")
def content_with_two(records):
    asked = {}
    for r in records:
        if not r["warm_up"]:
            asked.setdefault(setting(r), set()).add(r["contender"])
    return figures(records, lambda r: not r["warm_up"] and len(asked[setting(r)]) > 1, own_ms)


@wrong("fair_times", says="These are means")
def takes_means(records):
    common = shared(records, setting)
    return figures(records, lambda r: not r["warm_up"] and setting(r) in common, own_ms, statistics.fmean)


@wrong("fair_times", says="You take the best call of each contender")
def takes_the_best(records):
    common = shared(records, setting)
    return figures(records, lambda r: not r["warm_up"] and setting(r) in common, own_ms, min)


@right("fair_times")
def by_filters(records):
    common = shared(records, setting)
    return figures(records, lambda r: not r["warm_up"] and setting(r) in common, own_ms)


@right("fair_times")  # setting by setting, with tensors
def by_setting(records):
    records = [r for r in records if not r["warm_up"]]
    names = sorted({r["contender"] for r in records})
    found = {n: [] for n in names}
    for s in {setting(r) for r in records}:
        here = [r for r in records if setting(r) == s]
        if {r["contender"] for r in here} == set(names):
            for r in here:
                found[r["contender"]].append(own_ms(r))
    return {n: torch.tensor(v, dtype=torch.float64).quantile(0.5) for n, v in found.items()}
