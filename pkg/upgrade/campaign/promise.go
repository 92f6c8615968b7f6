package campaign

import (
	"cmp"
	"time"
)

// typical is how long one upgrade takes where nothing is known of others.
const typical = 10 * time.Minute

// reserve is what is added to an estimate before a promise: half of it, and some minutes for the first image.
func reserve(estimate time.Duration) time.Duration { return estimate + estimate/2 + 5*time.Minute }

// each is how long one upgrade of the campaign takes: the mean of those that ended.
func (c Campaign) each() time.Duration {
	measured := c.Counts.Succeeded + c.Counts.Unchanged + c.Counts.Failed
	if measured == 0 || c.SpentSeconds == 0 {
		return typical
	}
	return time.Duration(c.SpentSeconds) * time.Second / time.Duration(measured)
}

// left is how long what is left takes when nothing makes it wait.
func (c Campaign) left() time.Duration {
	parallel := max(1, c.MaxParallel)
	full := (c.Counts.Pending + parallel - 1) / parallel
	rest := time.Duration(full) * c.each()
	if c.Counts.Running > 0 {
		rest += c.each() / 2
	}
	return rest
}

// mayStart says whether upgrades may be started now, and what it waits for where they may not. A promise is older than the
// hours: where it could not be kept inside of them, upgrades start outside of them, as late as is safe.
func (c Campaign) mayStart(now time.Time) (ok bool, overtime bool, why string) {
	hours, err := ParseHours(c.Hours)
	if err != nil {
		return false, false, err.Error()
	}
	if hours.Open(now) {
		return true, false, ""
	}
	next := hours.Next(now)
	if c.HotfixBy != nil {
		latest := c.HotfixBy.Add(-reserve(c.left()))
		if c.Overtime || !now.Before(latest) {
			return true, true, ""
		}
		if next.IsZero() || latest.Before(next) {
			return false, false, "waits until " + told(latest) + ", when it has to begin outside its hours to be ready by " + told(*c.HotfixBy)
		}
	}
	if next.IsZero() {
		return false, false, "its hours never come"
	}
	return false, false, "waits for its hours, from " + told(next)
}

// fixed reports whether the image has what the campaign brings.
func (i Item) fixed() bool {
	return i.State == Done || i.State == Unchanged || i.State == Skipped && i.ToVersion != ""
}

// settlePromise says how it stands with the promise; true where that is new.
func (c *Campaign) settlePromise(items []Item, now time.Time) bool {
	if c.HotfixBy == nil || c.Promise == PromiseKept || c.Promise == PromiseBroken || !c.Chosen && !c.State.Final() {
		return false
	}
	was, unfixed, open := c.Promise, 0, 0
	for _, i := range items {
		switch {
		case !i.State.Final():
			open++
		case !i.fixed():
			unfixed++
		}
	}
	ends := cmp.Compare(now.UnixNano(), c.HotfixBy.UnixNano())
	switch {
	case ends > 0 && open+unfixed > 0, open == 0 && unfixed > 0, c.State == Cancelled && open > 0:
		c.Promise = PromiseBroken
	case open == 0 && ends <= 0:
		c.Promise = PromiseKept
	case open == 0: // ended too late between two looks
		c.Promise = PromiseBroken
	case now.Add(c.left()).After(*c.HotfixBy):
		c.Promise = PromiseAtRisk
	}
	return c.Promise != was
}
