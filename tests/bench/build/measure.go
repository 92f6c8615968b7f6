package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/kiln-cloud/kiln/tests/bench/measure"
)

// outcome is what a contender tells of itself.
type outcome struct {
	Image string  `json:"image"` // path; "" where none is made
	Disk  string  `json:"disk"`  // what it does of the image after its packages, in words with seconds
	Kept  string  `json:"kept"`  // folder that it keeps for the next time
	Own   float64 `json:"own"`   // seconds, where the process did more than is measured
}

// row is one line of the table.
type row struct {
	contender
	measure.Usage
	note  string // why there are no figures
	image int64  // bytes on the disk
	kept  int64  // bytes on the disk
	disk  string
}

// measure runs one contender in a child.
func (b *bench) measure(ctx context.Context, c contender) row {
	r := row{contender: c}
	var o outcome
	out, used, err := measure.Child(ctx, 40*time.Minute, nil, "-run", c.name, "-dir", b.dir, "-cache", b.cache)
	r.Usage = used
	if err == nil {
		err = json.Unmarshal(out, &o)
	}
	if err != nil {
		r.note = "failed: " + err.Error()
		return r
	}
	if o.Own > 0 {
		r.Wall = time.Duration(o.Own * float64(time.Second))
	}
	r.image, r.kept, r.disk = measure.OnDisk(o.Image), measure.OnDisk(o.Kept), o.Disk
	return r
}
