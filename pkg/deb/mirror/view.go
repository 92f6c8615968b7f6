package mirror

import (
	"net/http"
	"sync/atomic"
)

// View is the proxy as one job uses it: the same rules and the same cache, with counters of its own. Bytes from
// upstream count for the view that asked first; whoever asks while they come, or after, has a hit or nothing to pay.
// It is safe for many requests at the same time.
type View struct {
	proxy  *Proxy
	counts counters
}

// View makes one. It needs no closing; the proxy's own Stats hold what all views did.
func (p *Proxy) View() *View { return &View{proxy: p, counts: counters{total: &p.counts}} }

// ServeHTTP is that of the proxy.
func (v *View) ServeHTTP(w http.ResponseWriter, r *http.Request) { v.proxy.handle(w, r, &v.counts) }

// Stats counts what came through this view.
func (v *View) Stats() Stats { return v.counts.stats() }

// counters are Stats that many requests raise; what is added counts for the total too.
type counters struct {
	hits, misses, upstream, served atomic.Int64
	total                          *counters
}

func (c *counters) add(s Stats) {
	for ; c != nil; c = c.total {
		c.hits.Add(s.Hits)
		c.misses.Add(s.Misses)
		c.upstream.Add(s.BytesUpstream)
		c.served.Add(s.BytesServed)
	}
}

func (c *counters) stats() Stats {
	return Stats{Hits: c.hits.Load(), Misses: c.misses.Load(), BytesUpstream: c.upstream.Load(), BytesServed: c.served.Load()}
}
