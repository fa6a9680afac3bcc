package bus

// Message is what a subscriber gets.
type Message struct {
	Topic string
	Data  []byte
}

// Bus spreads messages. All methods may be called by many goroutines at once.
type Bus interface {
	// Publish hands data to all who subscribed to the topic, and does not wait for them. The data
	// must not be changed afterwards.
	Publish(topic string, data []byte)
	// Subscribe calls fn for each message of the topic that is published from now on, one after another
	// in the order of publishing. fn must be quick, and must not change the data. cancel ends that, also
	// from within fn; a call of fn that has its message already may still be under way when it returns.
	Subscribe(topic string, fn func(data []byte)) (cancel func())
}
