package syncapi

import (
	"context"
	"io"

	"weft/internal/clientevent"
	"weft/matrix/id"
)

// emptyBytes is room for an answer without rooms. A request that sleeps holds one.
const emptyBytes = 512

// answer is a response of /sync while it is written: first what stands outside of rooms,
// then a section for each room of the plan.
type answer struct {
	s    *Server
	q    *syncRequest
	plan *plan
	out  *output
	// told: something was written that a client must get.
	told bool
	// section is the part of "rooms" that is open: join, invite, knock, leave; or "".
	section string
	jobs    []job
}

// job is a room that may have a section.
type job struct {
	section string
	room    id.Room
	// sure: the section is never empty.
	sure bool
	// again: what it has is no reason to answer; the client may know it.
	again bool
	// write writes the section's value; it reports false when there is nothing to
	// tell, whatever it has written then is dropped.
	write func(ctx context.Context, a *answer) (bool, error)
}

// prepare chooses what to tell and writes it up to the first room with something
// to tell.
func (s *Server) prepare(ctx context.Context, q *syncRequest) (*answer, error) {
	p, err := s.makePlan(ctx, q)
	if err != nil {
		return nil, err
	}
	a := &answer{s: s, q: q, plan: p, out: &output{buf: make([]byte, 0, emptyBytes)}, jobs: p.jobs}
	if err := a.globals(ctx); err != nil {
		return nil, err
	}
	for !a.told && len(a.jobs) > 0 && !a.jobs[0].sure {
		if err := a.next(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// empty tells that the client knows all of the answer already.
func (a *answer) empty() bool { return !a.told && len(a.jobs) == 0 }

// next writes one room.
func (a *answer) next(ctx context.Context) error {
	j := a.jobs[0]
	a.jobs = a.jobs[1:]
	mark, section := len(a.out.buf), a.section
	switch a.section {
	case "":
		a.out.raw(`,"rooms":{`)
		a.out.member(j.section)
		a.out.raw(`{`)
	case j.section:
		a.out.raw(`,`)
	default:
		a.out.raw(`},`)
		a.out.member(j.section)
		a.out.raw(`{`)
	}
	a.section = j.section
	a.out.member(string(j.room))
	some, err := j.write(ctx, a)
	if err != nil {
		return err
	}
	if !some {
		a.out.buf, a.section = a.out.buf[:mark], section
		return nil
	}
	a.told = a.told || !j.again
	return a.out.flush()
}

// write sends the answer.
func (a *answer) write(ctx context.Context, w io.Writer) error {
	a.out.w = w
	for len(a.jobs) > 0 {
		if err := a.next(ctx); err != nil {
			return err
		}
	}
	if a.section != "" {
		a.out.raw(`}}`)
	}
	a.out.raw(`}`)
	return a.out.finish()
}

// globals writes what stands outside of rooms, but for the last brace.
func (a *answer) globals(ctx context.Context) error {
	devices, err := a.s.deviceSections(ctx, a.q, a.plan)
	if err != nil {
		return err
	}
	presence, news, err := a.s.presenceSection(ctx, a.q, a.plan)
	if err != nil {
		return err
	}
	b := a.out.open()
	b.key("next_batch").string(a.plan.to.String())
	if list := a.plan.globalData(a.q); len(list) > 0 {
		events(b, "account_data", list)
		a.told = true
	}
	if len(presence) > 0 {
		events(b, "presence", presence)
		a.told = a.told || news
	}
	if devices.write(b) {
		a.told = true
	}
	return nil
}

// viewer is the client that gets the answer.
func (a *answer) viewer() clientevent.Viewer {
	return clientevent.Viewer{User: a.q.user, Device: a.q.device, Now: a.s.nowMS(), Format: a.q.format}
}
