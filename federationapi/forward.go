package federationapi

import (
	"context"
	"encoding/json"
	"slices"

	"weft/internal/bus"
	"weft/internal/stream"
	"weft/matrix/id"
)

// Topics between the processes that share the destinations. All are best effort.
const (
	// TopicEDUs: durable EDUs were stored for servers. One that is lost costs no
	// more than the time until the next poll.
	TopicEDUs = "federation.edus"
	// TopicEphemeral: an EDU that may be lost is to be sent to servers.
	TopicEphemeral = "federation.ephemeral"
	// TopicAlive: servers that fail by what is stored were heard from.
	TopicAlive = "federation.alive"
)

const (
	// maxMessageServers bounds the servers of one message; more make several.
	maxMessageServers = 200
	// maxForwarded bounds an ephemeral EDU (bytes) that is handed to another process.
	maxForwarded = 256 << 10
	// maxElsewhere bounds the servers that are remembered of other processes'
	// shards, for each purpose.
	maxElsewhere = 10_000
)

// notice is what goes over the bus. A process passes by the servers that are not its own.
type notice struct {
	Servers []id.Server `json:"d"`
	// Of ephemeral EDUs; see the type.
	Key      string          `json:"k,omitempty"`
	Replaces bool            `json:"r,omitempty"`
	EDU      json.RawMessage `json:"e,omitempty"`
}

// publish tells the other processes, if there are any and the message has servers.
func (o *outbound) publish(topic string, m notice) {
	if o.cfg.Shares == nil || len(m.Servers) == 0 {
		return
	}
	if len(m.EDU) > maxForwarded {
		o.cfg.Log.WithField("bytes", len(m.EDU)).Info("an EDU that may be lost is too large to be handed on, and dropped")
		return
	}
	for part := range slices.Chunk(m.Servers, maxMessageServers) {
		m.Servers = part
		data, err := json.Marshal(m)
		if err != nil { // cannot be: strings, and JSON that was made here
			o.cfg.Log.WithError(err).Error("could not write a message to the other processes")
			return
		}
		o.cfg.Bus.Publish(topic, data)
	}
}

// listen subscribes to what is of interest on the bus.
func (o *outbound) listen() (cancel func()) {
	cancels := []func(){bus.SubscribeUpdates(o.cfg.Bus, func(u bus.Update) {
		switch {
		case u.Stream == stream.Events && u.Pos > 0:
			o.cfg.Tail.Hear(u.Lot)
			o.hear(u.Pos)
			o.awake()
		case u.Stream == stream.Events, u.Stream == "":
			o.poke()
		}
	})}
	on := func(topic string, do func(m notice)) {
		cancels = append(cancels, o.cfg.Bus.Subscribe(topic, func(data []byte) {
			var m notice
			if json.Unmarshal(data, &m) == nil { // else it is another version's
				do(m)
			}
		}))
	}
	if o.cfg.Shares != nil {
		on(TopicEDUs, func(m notice) { o.wait(m.Servers, 0) })
		on(TopicEphemeral, func(m notice) { o.addEphemeral(m.Servers, ephemeral{m.Key, m.Replaces, m.EDU}) })
		on(TopicAlive, o.hearOf)
	}
	return func() {
		for _, c := range cancels {
			c()
		}
	}
}

// hear learns of a position of the stream of events that is committed.
func (o *outbound) hear(pos int64) {
	for at := o.heard.Load(); pos > at && !o.heard.CompareAndSwap(at, pos); at = o.heard.Load() {
	}
}

// hearOf ends the pauses of servers that another process heard from.
func (o *outbound) hearOf(m notice) {
	for _, s := range m.Servers {
		o.mu.Lock()
		held := o.held(s) != nil
		o.mu.Unlock()
		if held {
			o.cfg.Transport.MarkAlive(s)
			o.alive(s)
		}
	}
}

// elsewhere is what is known of destinations of other processes' shards. Guarded
// by outbound.mu.
//
// Every request of another server tells that it is alive, and of nearly all that
// is no news. So the process that has a server's shard is told only about servers
// that fail by what is stored, which is read at each poll, and at most once between
// two polls. A server that is heard from shortly before its failure is read is told
// of at that poll.
type elsewhere struct {
	put            map[id.Server]int // durable EDUs since they were last bounded
	failing        map[id.Server]struct{}
	heard, earlier map[id.Server]struct{} // since the last poll, and the one before
}

func newElsewhere() elsewhere {
	return elsewhere{
		put: map[id.Server]int{}, failing: map[id.Server]struct{}{},
		heard: map[id.Server]struct{}{}, earlier: map[id.Server]struct{}{},
	}
}

// count notes durable EDUs. What is forgotten makes the bound a little softer.
func (e *elsewhere) count(server id.Server, n int) {
	if n == 0 {
		return // another process counts it
	}
	if len(e.put) >= maxElsewhere {
		clear(e.put)
	}
	e.put[server] += n
}

// hear notes that a server was heard from, and tells whether its owner is to be
// told now.
func (e *elsewhere) hear(server id.Server) (tell bool) {
	if _, ok := e.failing[server]; ok {
		delete(e.failing, server)
		return true
	}
	if len(e.heard) < maxElsewhere {
		e.heard[server] = struct{}{}
	}
	return false
}

// poll takes note of the servers that fail, and gives those that were heard from.
func (e *elsewhere) poll(failing []id.Server) (tell []id.Server) {
	clear(e.failing)
	for _, s := range failing {
		_, now := e.heard[s]
		_, before := e.earlier[s]
		switch {
		case now || before:
			tell = append(tell, s)
		case len(e.failing) < maxElsewhere:
			e.failing[s] = struct{}{}
		}
	}
	e.heard, e.earlier = e.earlier, e.heard
	clear(e.heard)
	return tell
}

// look does unasked what a message may have asked for and got lost. A process
// that has all destinations hears everything.
func (o *outbound) look(ctx context.Context) error {
	if o.cfg.Shares == nil {
		return nil
	}
	waiting, err := listWaiting(ctx, o.cfg.DB)
	if err != nil {
		return err
	}
	o.wait(waiting, 0)
	behind, err := listBehind(ctx, o.cfg.DB)
	if err != nil {
		return err
	}
	o.mu.Lock()
	var failing []id.Server
	for _, r := range behind {
		if r.failures > 0 && o.held(r.server) == nil {
			failing = append(failing, r.server)
		}
	}
	tell := o.others.poll(failing)
	o.mu.Unlock()
	o.publish(TopicAlive, notice{Servers: tell})
	return o.lookWhoOwns(ctx)
}

// lookWhoOwns finds shards that another process took since. Whoever writes a cursor learns of it as well, but not where the
// stream stands still; and what the other left behind, when it gave the shard up again, is known here only after taking it anew.
func (o *outbound) lookWhoOwns(ctx context.Context) error {
	owners, err := o.store.owners(ctx)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, sh := range o.shares {
		if sh != nil && owners[sh.n] != sh.owner {
			sh.fenced = true
			o.poke()
		}
	}
	return nil
}
