package campaign

import "time"

// Progress is how far a campaign is.
type Progress struct {
	Total   int        `json:"total"`
	Ended   int        `json:"ended"` // have had their turn, whatever came of it
	Running int        `json:"running"`
	Failed  int        `json:"failed"`
	PerHour float64    `json:"per_hour"` // images, at the pace so far; 0 while nothing has ended
	ETA     *time.Time `json:"eta"`      // when it will be through, with its hours; missing where nobody can tell
}

// View is a campaign with how far it is.
type View struct {
	Campaign
	Progress Progress `json:"progress"`
}

// Viewed adds how far the campaign is at the time.
func (c Campaign) Viewed(now time.Time) View { return View{c, c.progress(now)} }

func (c Campaign) progress(now time.Time) Progress {
	p := Progress{Total: c.Counts.Total, Ended: c.Counts.Ended(), Running: c.Counts.Running, Failed: c.Counts.Failed}
	if c.SpentSeconds == 0 || c.Counts.Succeeded+c.Counts.Unchanged+c.Counts.Failed == 0 {
		return p
	}
	p.PerHour = float64(max(1, c.MaxParallel)) * float64(time.Hour) / float64(c.each())
	if c.State != Running && c.State != Waiting {
		return p
	}
	hours, err := ParseHours(c.Hours)
	if err != nil {
		return p
	}
	p.ETA = through(hours, now, c.left())
	return p
}

// through is when so much work is done in the hours; nil where that is more than a year away.
func through(hours Hours, now time.Time, work time.Duration) *time.Time {
	at := now.UTC().Truncate(time.Second)
	for limit := at.AddDate(1, 0, 0); at.Before(limit); {
		at = hours.Next(at)
		if at.IsZero() {
			return nil
		}
		closes := hours.Closes(at)
		if closes.IsZero() || !closes.Before(at.Add(work)) {
			at = at.Add(work).UTC()
			return &at
		}
		work -= closes.Sub(at)
		at = closes
	}
	return nil
}
