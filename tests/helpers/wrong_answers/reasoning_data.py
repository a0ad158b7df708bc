"""Wrong answers to the exercises of lesson 07: exercise id -> what is wrong -> source."""

WRONG = {
    "trim": {
        "kept if there is no thought to cut": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    if len(whole.tokens) <= budget or not whole.blocks:
        return whole.tokens, whole.loss_mask, "kept"
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget
    *earlier, last = whole.blocks
    action = "tail"
    if excess > last.end - last.start:                       # rule 3
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start - 1, block.end + 1):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return None
    for i in range(last.end - max(0, excess), last.end):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, [flag for flag, stays in zip(whole.loss_mask, keep) if stays], action
''',
        "keeps the end of the thought, not its beginning": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget
    if excess <= 0:
        return whole.tokens, whole.loss_mask, "kept"
    if not whole.blocks:
        return None
    *earlier, last = whole.blocks
    action = "tail"
    if excess > last.end - last.start:                       # rule 3
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start - 1, block.end + 1):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return None
    for i in range(last.start, last.start + max(0, excess)):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, [flag for flag, stays in zip(whole.loss_mask, keep) if stays], action
''',
        "one token too many": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget - 1
    if excess <= 0:
        return whole.tokens, whole.loss_mask, "kept"
    if not whole.blocks:
        return None
    *earlier, last = whole.blocks
    action = "tail"
    if excess > last.end - last.start:                       # rule 3
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start - 1, block.end + 1):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return None
    for i in range(last.end - max(0, excess), last.end):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, [flag for flag, stays in zip(whole.loss_mask, keep) if stays], action
''',
        "cuts the middle": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget
    if excess <= 0:
        return whole.tokens, whole.loss_mask, "kept"
    if not whole.blocks:
        return None
    *earlier, last = whole.blocks
    action = "tail"
    if excess > last.end - last.start:                       # rule 3
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start - 1, block.end + 1):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return None
    middle = (last.start + last.end - max(0, excess)) // 2
    for i in range(middle, middle + max(0, excess)):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, [flag for flag, stays in zip(whole.loss_mask, keep) if stays], action
''',
        "earlier tags stay": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget
    if excess <= 0:
        return whole.tokens, whole.loss_mask, "kept"
    if not whole.blocks:
        return None
    *earlier, last = whole.blocks
    action = "tail"
    if excess > last.end - last.start:                       # rule 3
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start, block.end):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return None
    for i in range(last.end - max(0, excess), last.end):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, [flag for flag, stays in zip(whole.loss_mask, keep) if stays], action
''',
        "cuts the answer when the thought is too short": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget
    if excess <= 0:
        return whole.tokens, whole.loss_mask, "kept"
    if not whole.blocks:
        return None
    *earlier, last = whole.blocks
    action = "tail"
    if excess > last.end - last.start:                       # rule 3
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start - 1, block.end + 1):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return whole.tokens[:budget], whole.loss_mask[:budget], action
    for i in range(last.end - max(0, excess), last.end):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, [flag for flag, stays in zip(whole.loss_mask, keep) if stays], action
''',
        "the first thought is cut": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget
    if excess <= 0:
        return whole.tokens, whole.loss_mask, "kept"
    if not whole.blocks:
        return None
    last, *earlier = whole.blocks
    action = "tail"
    if excess > last.end - last.start:                       # rule 3
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start - 1, block.end + 1):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return None
    for i in range(last.end - max(0, excess), last.end):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, [flag for flag, stays in zip(whole.loss_mask, keep) if stays], action
''',
        "loss mask of the whole": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget
    if excess <= 0:
        return whole.tokens, whole.loss_mask, "kept"
    if not whole.blocks:
        return None
    *earlier, last = whole.blocks
    action = "tail"
    if excess > last.end - last.start:                       # rule 3
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start - 1, block.end + 1):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return None
    for i in range(last.end - max(0, excess), last.end):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, whole.loss_mask[:len(tokens)], action
''',
        "earlier thoughts go whenever there are some": '''
def my_trim(conversation, budget, tokenizer):
    whole = chat.encode(conversation, tokenizer)
    keep, excess = [True] * len(whole.tokens), len(whole.tokens) - budget
    if excess <= 0:
        return whole.tokens, whole.loss_mask, "kept"
    if not whole.blocks:
        return None
    *earlier, last = whole.blocks
    action = "tail"
    if earlier:
        action = "thinks_dropped"
        for block in earlier:
            for i in range(block.start - 1, block.end + 1):
                keep[i], excess = False, excess - 1
    if excess > last.end - last.start:
        return None
    for i in range(last.end - max(0, excess), last.end):     # rule 2
        keep[i] = False
    tokens = [token for token, stays in zip(whole.tokens, keep) if stays]
    return tokens, [flag for flag, stays in zip(whole.loss_mask, keep) if stays], action
''',
    },
    "pack": {
        "in the order given": '''
def my_pack(lengths, capacity):
    rows, room = [], []
    for i in range(len(lengths)):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[i]]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(capacity)
        best = min(fitting, key=lambda row: room[row])       # the first of equals is the oldest
        rows[best].append(i)
        room[best] -= lengths[i]
    return rows
''',
        "first fit": '''
def my_pack(lengths, capacity):
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[i]]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(capacity)
        best = fitting[0]
        rows[best].append(i)
        room[best] -= lengths[i]
    return rows
''',
        "worst fit": '''
def my_pack(lengths, capacity):
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[i]]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(capacity)
        best = max(fitting, key=lambda row: room[row])       # the first of equals is the oldest
        rows[best].append(i)
        room[best] -= lengths[i]
    return rows
''',
        "the newest of equals": '''
def my_pack(lengths, capacity):
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[i]]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(capacity)
        best = min(reversed(fitting), key=lambda row: room[row])       # the first of equals is the oldest
        rows[best].append(i)
        room[best] -= lengths[i]
    return rows
''',
        "overfull by one": '''
def my_pack(lengths, capacity):
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[i] - 1]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(capacity)
        best = min(fitting, key=lambda row: room[row])       # the first of equals is the oldest
        rows[best].append(i)
        room[best] -= lengths[i]
    return rows
''',
        "needs more than it takes": '''
def my_pack(lengths, capacity):
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if room[row] > lengths[i]]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(capacity)
        best = min(fitting, key=lambda row: room[row])       # the first of equals is the oldest
        rows[best].append(i)
        room[best] -= lengths[i]
    return rows
''',
        "lengths for indices": '''
def my_pack(lengths, capacity):
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[i]]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(capacity)
        best = min(fitting, key=lambda row: room[row])       # the first of equals is the oldest
        rows[best].append(lengths[i])
        room[best] -= lengths[i]
    return rows
''',
    },
    "rows": {
        "the last token predicts the next document": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.full_like(tokens, -1)
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], i
            following = documents[i][1:]
            if loss_masks is not None:
                following = torch.where(loss_masks[i][1:], following, -100)
            targets[row, start: stop - 1] = following
            targets[row, start - 1] = documents[i][0] if start else -100
            start = stop
    return tokens, targets, doc_ids, doc_ids >= 0
''',
        "the mask of the token before": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.full_like(tokens, -1)
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], i
            following = documents[i][1:]
            if loss_masks is not None:
                following = torch.where(loss_masks[i][:-1], following, -100)
            targets[row, start: stop - 1] = following
            start = stop
    return tokens, targets, doc_ids, doc_ids >= 0
''',
        "loss masks forgotten": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.full_like(tokens, -1)
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], i
            following = documents[i][1:]
            if False:
                following = torch.where(loss_masks[i][1:], following, -100)
            targets[row, start: stop - 1] = following
            start = stop
    return tokens, targets, doc_ids, doc_ids >= 0
''',
        "padding belongs to document 0": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.zeros_like(tokens)
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], i
            following = documents[i][1:]
            if loss_masks is not None:
                following = torch.where(loss_masks[i][1:], following, -100)
            targets[row, start: stop - 1] = following
            start = stop
    return tokens, targets, doc_ids, doc_ids >= 0
''',
        "ids count within the row": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.full_like(tokens, -1)
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], members.index(i)
            following = documents[i][1:]
            if loss_masks is not None:
                following = torch.where(loss_masks[i][1:], following, -100)
            targets[row, start: stop - 1] = following
            start = stop
    return tokens, targets, doc_ids, doc_ids >= 0
''',
        "targets not shifted": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.full_like(tokens, -1)
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], i
            following = documents[i][:-1]
            if loss_masks is not None:
                following = torch.where(loss_masks[i][1:], following, -100)
            targets[row, start: stop - 1] = following
            start = stop
    return tokens, targets, doc_ids, doc_ids >= 0
''',
        "padding told by its token": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.full_like(tokens, -1)
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], i
            following = documents[i][1:]
            if loss_masks is not None:
                following = torch.where(loss_masks[i][1:], following, -100)
            targets[row, start: stop - 1] = following
            start = stop
    return tokens, targets, doc_ids, tokens != 0
''',
        "no target before or at token 0": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.full_like(tokens, -1)
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], i
            following = documents[i][1:]
            if loss_masks is not None:
                following = torch.where(loss_masks[i][1:], following, -100)
            targets[row, start: stop - 1] = following
            start = stop
    targets[tokens == 0] = -100
    return tokens, targets, doc_ids, doc_ids >= 0
''',
        "in the order of their numbers": '''
def my_rows(documents, bins, capacity, loss_masks):
    tokens = torch.zeros(len(bins), capacity, dtype=torch.int64)
    targets, doc_ids = torch.full_like(tokens, -100), torch.full_like(tokens, -1)
    for row, members in enumerate(bins):
        start = 0
        for i in sorted(members):
            stop = start + len(documents[i])
            tokens[row, start:stop], doc_ids[row, start:stop] = documents[i], i
            following = documents[i][1:]
            if loss_masks is not None:
                following = torch.where(loss_masks[i][1:], following, -100)
            targets[row, start: stop - 1] = following
            start = stop
    return tokens, targets, doc_ids, doc_ids >= 0
''',
    },
}
WRONG["trim"]["what just fits is called cut"] = (
    WRONG["trim"]["one token too many"].replace("- budget - 1", "- budget").replace("if excess <= 0", "if excess < 0"))
IN_ORDER = WRONG["rows"]["in the order of their numbers"]
WRONG["rows"]["masked in place"] = IN_ORDER.replace("sorted(members)", "members").replace(
    "    tokens = torch.zeros", """\
    if loss_masks is not None:
        for document, mask in zip(documents, loss_masks):
            document[1:][~mask[1:]] = -100
    tokens = torch.zeros""")
WRONG["rows"]["bins sorted in place"] = IN_ORDER.replace(
    "        for i in sorted(members)", "        members.sort()\n        for i in members")
