package keystone

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/identity"
)

// key is a token's digest: the cache never holds a token that could be stolen from it.
type key struct {
	sum          [sha256.Size]byte
	allowExpired bool
}

// String is for singleflight.
func (k key) String() string {
	s := hex.EncodeToString(k.sum[:])
	if k.allowExpired {
		s += "+"
	}
	return s
}

type entry struct {
	caller identity.Caller
	err    error // Unauthenticated, or nil
	until  time.Time
}

// cache is bounded: guessing tokens cannot fill the memory.
type cache struct {
	mu      sync.Mutex
	limit   int
	entries map[key]entry
}

func (c *cache) get(k key, now time.Time) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	if ok && !now.Before(e.until) {
		delete(c.entries, k)
		ok = false
	}
	return e, ok
}

func (c *cache) put(k key, e entry, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= c.limit {
		c.shrink(now)
	}
	c.entries[k] = e
}

// shrink drops what is over, then the bad tokens, then any, until a tenth of the room is free.
func (c *cache) shrink(now time.Time) {
	room := c.limit - c.limit/10 - 1
	for _, drop := range []func(entry) bool{
		func(e entry) bool { return !now.Before(e.until) },
		func(e entry) bool { return e.err != nil },
		func(entry) bool { return true },
	} {
		for k, e := range c.entries {
			if len(c.entries) <= room {
				return
			}
			if drop(e) {
				delete(c.entries, k)
			}
		}
	}
}
