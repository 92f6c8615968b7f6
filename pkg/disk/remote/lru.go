package remote

// lru is the blocks that are kept, in the order of their last use. A block that is not in it is on its way.
type lru struct {
	head block // next is the newest, prev the oldest
	n    int
}

func (l *lru) init() { l.head.next, l.head.prev = &l.head, &l.head }

func (l *lru) oldest() *block { return l.head.prev }

func (l *lru) add(b *block) {
	b.prev, b.next = &l.head, l.head.next
	b.prev.next, b.next.prev = b, b
	l.n++
}

// use makes a block the newest, where it is kept.
func (l *lru) use(b *block) {
	if b.next == nil {
		return
	}
	b.prev.next, b.next.prev = b.next, b.prev
	l.n--
	l.add(b)
}

func (l *lru) drop() {
	b := l.oldest()
	b.prev.next, b.next.prev = b.next, b.prev
	b.prev, b.next = nil, nil
	l.n--
}
