"""Wrong answers to the exercises of lesson 10: exercise id -> what is wrong -> source."""

WRONG = {
    "rsa": {
        "the tail is the head": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[:rsa.tau] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "with replacement": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.choices(tails, k=rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "C = 1 drawn": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "from all rounds": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for earlier in traces for trace in earlier]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "T counts all rounds": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(max(1, rsa.T)):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "prompts are counted": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces + prompts for trace in own))
''',
        "one subset for all": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            same = draw.sample(tails, rsa.C)
            chosen = [[tail] if rsa.C == 1 else same for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "the seed ignored": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "whole traces": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "the question dropped where aggregate is None": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "the same subsets in every round": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            draw = random.Random(f"{seed}/{question}")
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "its own trace is never read": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else
                      draw.sample(tails[:n] + tails[n + 1:], min(rsa.C, rsa.N - 1))
                      for n, tail in enumerate(tails)]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "its own trace is always read": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else
                      [tail, *draw.sample(tails[:n] + tails[n + 1:], rsa.C - 1)] for n, tail in enumerate(tails)]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "the question is left out of the draw": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(seed)
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "the tails forgotten where aggregate is None": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: list(question))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "the first tail alone where aggregate is None": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + tails[0])
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "the question grows in place": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    def joined(question, tails):
        for tail in tails:
            question += tail
        return list(question)

    aggregate = aggregate or joined
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "neighbours in a ring": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else (tails + tails)[at: at + rsa.C]
                      for tail in tails for at in [draw.randrange(rsa.N)]]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "equal tails are one": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{question}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            different = sorted(set(map(tuple, tails)))
            chosen = [[tail] if rsa.C == 1 else
                      [list(other) for other in draw.sample(different, min(rsa.C, len(different)))] for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "only the length of the question in the draw": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(f"{seed}/{len(question)}")
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
        "seed and question added": '''
def my_rsa(generator, question, rsa, aggregate=None, seed=0):
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    draw = random.Random(seed + sum(question))
    traces, prompts = [], []
    for t in range(rsa.T + 1):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            tails = [trace[-rsa.tau:] for trace in traces[-1]]
            chosen = [[tail] if rsa.C == 1 else draw.sample(tails, rsa.C) for tail in tails]
            own = [aggregate(question, few) for few in chosen]
        prompts.append(own)
        traces.append(generator(own, rsa.beta))
    return rounds.RSAResult(traces, prompts, sum(len(trace) for own in traces for trace in own))
''',
    },
    "majority": {
        "no answer votes": '''
def my_majority(answers):
    votes = [str(answer) for answer in answers]
    return max(votes, key=votes.count) if votes else "nobody"
''',
        "an empty answer does not vote": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer]
    return max(votes, key=votes.count) if votes else "nobody"
''',
        "the first": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer is not None]
    return votes[0] if votes else "nobody"
''',
        "the last of equals": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer is not None]
    return max(votes[::-1], key=votes.count) if votes else "nobody"
''',
        "the largest": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer is not None]
    return max(votes) if votes else "nobody"
''',
        "nobody forgotten": '''
def my_majority(answers):
    votes = [answer for answer in answers if answer is not None]
    return max(votes, key=votes.count) if votes else ""
''',
    },
}
